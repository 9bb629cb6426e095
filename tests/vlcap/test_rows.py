"""Rows of a file of captions: what is written is read back, and no spreadsheet runs a caption."""

import csv
from pathlib import Path

import pytest

from vlcap.bulk.rows import FORMATS, Row, as_cell, of_cell, read_rows, rendered

CAPTIONS = (
    "a dog runs",
    "=1+1",
    "'=1+1",
    "a;=1+1",
    "a;'=1+1",
    ' "=cmd"',
    "-5 degrees",
    "\uff1d1+1",
    "\t=1",
    "\r\n=1",
    "it's a dog; a cat",
    "'quoted'",
    "",
)


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_are_read_back(suffix):
    file = Path(f"captions{suffix}")
    rows = [Row(f"{number}.jpg", caption, -0.5, 5) for number, caption in enumerate(CAPTIONS)]
    half = rendered(file, None, rows[:6])
    assert read_rows(file, rendered(file, half, rows[6:])) == [(row.image, row.caption) for row in rows]


def test_no_cell_begins_a_formula():
    """Neither whole, nor where a spreadsheet splits at semicolons, which splits in spite of quotes but in the first."""
    content = rendered(Path("a.csv"), None, [Row(";=8.jpg", text, problem=text) for text in CAPTIONS]).decode()
    rows = list(csv.reader(content.splitlines(keepends=True)))[1:]
    for image, caption, _, _, problem in rows:
        assert image == ";=8.jpg"
        for part in f"{caption};{problem}".replace("\t", ";").replace("\r", ";").replace("\n", ";").split(";"):
            assert part.lstrip(' "')[:1] not in {*"=+-@\uff1d"}
    assert content.startswith('"image","caption"') and '\n";=8.jpg","' in content


def test_a_marked_cell_is_the_same_text_again():
    assert all(of_cell(as_cell(text)) == text for text in CAPTIONS)
