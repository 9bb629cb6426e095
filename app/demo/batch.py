"""Captions of many photos at once, from files and zip archives, as rows for the page and for files to download."""

import csv
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TextIO

from PIL import Image

from vlcap.bulk.rows import as_cell
from vlcap.captioner import Captioner
from vlcap.data.archives import count_photos, read_photos
from vlcap.data.images import ImageError

from ..photos import open_photo, pixels_to_decode

THUMBNAIL = (192, 192)
MAX_PIXELS = 400_000_000  # to decode in a batch, so that nobody waits long for its end; a JPEG counts an eighth
COLUMNS = ("photo", "caption", "problem", "tokens", "ms", "score")


@dataclass(frozen=True)
class Row:
    """One photo of a batch, with its caption or the reason why it has none.

    Attributes:
        name: Name of the file; in an archive, the path inside it.
        thumbnail: RGB image with a long side of at most 192 pixels; None with a problem.
        caption: The caption; "" with a problem.
        problem: The reason why there is no caption, one line; "" with a caption.
        tokens: Number of compressed tokens that the caption was read from; None with a problem.
        ms: Milliseconds that captioning took; None with a problem.
        score: Mean log-probability of the caption's pieces; None with a problem.
    """

    name: str
    thumbnail: Image.Image | None = None
    caption: str = ""
    problem: str = ""
    tokens: int | None = None
    ms: float | None = None
    score: float | None = None


def caption_batch(
    captioner: Captioner,
    files: Sequence[tuple[str, Path]],
    budget: int | None = None,
    **generation: Any,
) -> Iterator[tuple[Row, int]]:
    """One row for each photo, with the number of all rows.

    Args:
        captioner: The captioner.
        files: Name and path of each file: photos and zip archives.
        budget: Side of the compressed grid; None for the captioner's default.
        generation: As for `Captioner.caption`.
    """
    total, pixels = count_photos(path for _, path in files), 0
    for name, source in read_photos(files):
        if isinstance(source, ImageError):
            yield Row(name, problem=str(source)), total
            continue
        pixels += pixels_to_decode(source)
        if pixels > MAX_PIXELS:
            problem = f"left out, with all files after it: at most {MAX_PIXELS / 1e6:g} million pixels per batch"
            yield Row(name, problem=problem), total
            return
        try:
            photo = open_photo(source, name=name)
        except ImageError as error:
            yield Row(name, problem=str(error).removeprefix(f"{name}: ")), total
            continue
        [found] = captioner.caption_pixels(captioner.preprocess([photo]), budget=budget, **generation)
        photo.thumbnail(THUMBNAIL)
        yield Row(name, photo, found.text, tokens=found.budget**2, ms=found.ms, score=found.score), total


def write_csv(rows: Iterable[Row], file: TextIO) -> None:
    """Writes a header and rows as CSV. `file` must be open with newline=''."""
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)  # the first cell stays whole where a sheet splits at semicolons
    writer.writerow(COLUMNS)
    for row in rows:
        ms = "" if row.ms is None else round(row.ms, 1)
        tokens = "" if row.tokens is None else row.tokens
        score = "" if row.score is None else round(row.score, 3)
        writer.writerow([as_cell(row.name), as_cell(row.caption), as_cell(row.problem), tokens, ms, score])


def write_jsonl(rows: Iterable[Row], file: TextIO) -> None:
    """Writes one JSON object per line, with the columns of the CSV file; null where a row has no value."""
    for row in rows:
        values = (row.name, row.caption or None, row.problem or None, row.tokens, row.ms, row.score)
        file.write(json.dumps(dict(zip(COLUMNS, values, strict=True)), ensure_ascii=False) + "\n")


def write_sidecars(rows: Iterable[Row], file: BinaryIO) -> None:
    """Writes a zip archive with a text file beside each captioned photo: `a/photo.txt` for `a/photo.jpg`.

    No name in it leads out of the folder that it is unpacked in. Where two photos would share a text file, the second
    keeps its suffix: `a/photo.png.txt`.
    """
    taken: set[str] = set()
    with zipfile.ZipFile(file, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for row in rows:
            if row.problem:
                continue
            parts = [part for part in re.split(r"[/\\]", row.name.replace(":", "_")) if part.strip(". ")]
            path = PurePosixPath(*parts or ["photo"])
            names = (
                str(path.with_suffix(".txt")),
                f"{path}.txt",
                *(f"{path}.{n}.txt" for n in range(2, len(taken) + 3)),
            )
            name = next(name for name in names if name.lower() not in taken)
            taken.add(name.lower())
            archive.writestr(name, row.caption + "\n")
