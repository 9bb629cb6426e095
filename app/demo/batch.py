"""Captions of many photos at once, from files and zip archives, as rows for the page and for a CSV file."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from vlcap.captioner import Captioner
from vlcap.data.archives import count_photos, read_photos
from vlcap.data.images import ImageError

from .photos import open_photo, pixels_to_decode

THUMBNAIL = (320, 320)
MAX_PIXELS = 400_000_000  # to decode in a batch, so that nobody waits long for its end; a JPEG counts an eighth
# What a spreadsheet would start a formula with, at the start of a cell or where it splits one; also in full width.
FORMULA = re.compile("(^|[;\\t\\r\\n])(?=[\\s\"']*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\\t\\r])")
COLUMNS = ("photo", "caption", "problem", "tokens", "ms")


@dataclass(frozen=True)
class Row:
    """One photo of a batch, with its caption or the reason why it has none.

    Attributes:
        name: Name of the file; in an archive, the path inside it.
        thumbnail: RGB image with a long side of at most 320 pixels; None with a problem.
        caption: The caption; "" with a problem.
        problem: The reason why there is no caption, one line; "" with a caption.
        tokens: Number of compressed tokens that the caption was read from; None with a problem.
        ms: Milliseconds that captioning took; None with a problem.
    """

    name: str
    thumbnail: Image.Image | None = None
    caption: str = ""
    problem: str = ""
    tokens: int | None = None
    ms: float | None = None


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
        yield Row(name, thumbnail=photo, caption=found.text, tokens=found.budget**2, ms=found.ms), total


def write_csv(rows: Iterable[Row], file: TextIO) -> None:
    """Writes a header and rows as CSV. `file` must be open with newline=''."""
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)  # the first cell stays whole where a sheet splits at semicolons
    writer.writerow(COLUMNS)
    for row in rows:
        ms = "" if row.ms is None else round(row.ms, 1)
        tokens = "" if row.tokens is None else row.tokens
        writer.writerow([_as_text(row.name), _as_text(row.caption), _as_text(row.problem), tokens, ms])


def _as_text(value: str) -> str:
    """A cell that no spreadsheet runs as a formula, whole or split at semicolons: names come from outside."""
    return FORMULA.sub(r"\1'", value)
