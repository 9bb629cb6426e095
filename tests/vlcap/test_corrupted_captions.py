"""`vlcap compare --corruptions`: CIDEr under corruption, against captions and scores of the same photos by hand."""

import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console

from vlcap.data.captions import read_captions
from vlcap.data.corruptions import corrupt
from vlcap.evaluation.compare import contender
from vlcap.evaluation.corrupted import compare_corrupted, corrupted_split, corrupted_table, write_corrupted
from vlcap.evaluation.metrics import score

SIDE = 48


@pytest.fixture(scope="module")
def captions(captioned_folder):
    return read_captions(captioned_folder, "val", limit=6)


@pytest.mark.slow
def test_scores_are_those_of_the_corrupted_photos(captioner, captions, tmp_path):
    (tmp_path / "predictions").mkdir()
    compared = [contender("small", captioner, [2, 3])]
    names, severities = ["contrast", "pixelate"], [1, 5]
    rows = compare_corrupted(compared, captions, tmp_path, names, severities, SIDE, draws=50)
    assert [(row.tokens, row.corruption) for row in rows] == [
        (tokens, name) for tokens in (4, 9) for name in ("clean", "contrast", "pixelate", "all")
    ]
    clean = corrupted_split(captions, "clean", 0, SIDE, 0)
    photos = [corrupt(clean.image(i), "contrast", 5, 0, i) for i in range(len(captions))]
    texts = dict(zip(captions.image_ids, captioner.caption(photos, budget=2), strict=True))
    expected = score(texts, captions.references(), metrics=["CIDEr"]).values["CIDEr"]
    found = rows[1]
    assert found.severities["5"] == pytest.approx(expected)
    assert found.CIDEr == pytest.approx(np.mean([*found.severities.values()]))
    assert rows[3].CIDEr == pytest.approx(np.mean([row.CIDEr for row in rows[1:3]]))
    assert rows[3].severities["1"] == pytest.approx(np.mean([row.severities["1"] for row in rows[1:3]]))
    for row in rows:
        assert row.low <= row.CIDEr <= row.high and row.lost_low <= row.lost <= row.lost_high
    assert rows[0].lost == rows[0].lost_low == 0
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "predictions").iterdir()}
    assert len(kept) == 2 * 5
    assert compare_corrupted(compared, captions, tmp_path, names, severities, SIDE, draws=50) == rows
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "predictions").iterdir()} == kept
    setting = {"data": "drawn", "split": "val", "N": 6, "corruption_size": SIDE}
    write_corrupted(rows, setting, tmp_path)
    assert json.loads((tmp_path / "corruptions.json").read_text())["rows"][1]["corruption"] == "contrast"
    lines = [*csv.DictReader((tmp_path / "corruptions.csv").open())]
    assert float(lines[1]["severity_5"]) == found.severities["5"] and lines[0]["severity_5"] == ""
    shown = io.StringIO()
    Console(file=shown, width=80).print(corrupted_table(rows, setting))
    assert sum(line.split()[:1] == [rows[0].model] for line in shown.getvalue().splitlines()) == 8


def test_each_corruption_is_another_split(captions):
    prints = [
        corrupted_split(captions, name, severity, size, seed).fingerprint()
        for name, severity, size, seed in (
            ("fog", 1, 48, 0),
            ("fog", 2, 48, 0),
            ("snow", 1, 48, 0),
            ("fog", 1, 64, 0),
            ("fog", 1, 48, 1),
        )
    ]
    assert len({*prints, captions.fingerprint()}) == 6
    assert corrupted_split(captions, "fog", 1, 48, 0).references() == captions.references()
