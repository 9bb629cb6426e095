"""Many photos at once, from files and zip archives that a stranger chose: captions, or why there is none.

Used by `vlcap demo`. An archive is read in memory, photo by photo; nothing of it is ever written to a folder, so no
name in it can lead anywhere. What an archive says of its sizes isn't believed.
"""

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from vlcap.captioner import Captioner
from vlcap.data.images import ImageError, is_image_name, load_image, passed_over

MAX_PHOTOS = 64  # of one batch: about a minute's work for a small machine
MAX_ENTRIES = 4096  # of one archive, read or passed over
MAX_BYTES = 20 * 1024**2  # of one photo, unpacked
MAX_ALL_BYTES = 200 * 1024**2  # of one archive's photos, unpacked
THUMBNAIL = (320, 320)
COLUMNS = ("photo", "caption", "problem", "tokens", "ms")


@dataclass(frozen=True)
class Row:
    """One photo of a batch: its caption, or the problem it had.

    Attributes:
        name: Its file's name; in an archive, its path there.
        thumbnail: RGB, at most 320 pixels long; None with a problem.
        caption: "" with a problem.
        problem: One line, "" without.
        tokens: Compressed tokens that the caption was read from; None with a problem.
        ms: Time that captioning took; None with a problem.
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
    """A row for every photo in some files, each with the number of photos that there are.

    Args:
        captioner: Who writes.
        files: Name and path of each: photos and zip archives.
        budget: Side of the compressed grid; None for the captioner's own.
        generation: As for `Captioner.caption`.
    """
    total = count_photos(path for _, path in files)
    for name, source in read_photos(files):
        if isinstance(source, ImageError):
            yield Row(name, problem=str(source)), total
            continue
        try:
            photo = load_image(source, name=name)
        except ImageError as error:
            yield Row(name, problem=str(error).removeprefix(f"{name}: ")), total
            continue
        [found] = captioner.caption_pixels(captioner.preprocess([photo]), budget=budget, **generation)
        photo.thumbnail(THUMBNAIL)
        yield Row(name, thumbnail=photo, caption=found.text, tokens=found.budget**2, ms=found.ms), total


def read_photos(files: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, Path | bytes | ImageError]]:
    """What may be photos in some files: a name, and the file, or an archive's entry unpacked, or why it isn't taken."""
    left = MAX_PHOTOS
    for name, path in files:
        name = printable(name)
        archive = zipfile.is_zipfile(path)
        for photo, source in read_zip(name, path) if archive else [(name, path)]:
            if archive and photo == name and isinstance(source, ImageError):  # about the archive: no photo
                yield photo, source
                continue
            if not left:
                yield photo, ImageError(f"left out, as is all after it: at most {MAX_PHOTOS} photos per batch")
                return
            left -= 1
            yield photo, source


def read_zip(name: str, path: Path) -> Iterator[tuple[str, bytes | ImageError]]:
    """The photos of an archive, unpacked within the limits, and one row for all files that are no images.

    Folders, and the hidden files that systems add, are passed over.
    """
    left = MAX_ALL_BYTES
    try:
        with zipfile.ZipFile(path) as archive:
            photos, others = _entries(archive)
            if not photos:
                yield name, ImageError("no photos in this archive" + (f": {_rest(others)}" if others else ""))
            for entry in photos:
                label = printable(entry.filename)
                if left <= 0:
                    yield label, ImageError("left out, as is all after it: the archive is too large unpacked")
                    return
                try:
                    data = _unpack(archive, entry, limit=min(MAX_BYTES, left))
                    left -= len(data)
                    yield label, data
                except ImageError as error:
                    left -= MAX_BYTES
                    yield label, error
            if photos and others:
                yield name, ImageError(_rest(others))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        yield name, ImageError(f"damaged archive ({' '.join(str(error).split()) or type(error).__name__})")


def count_photos(paths: Iterable[Path]) -> int:
    """How many rows the photos and archives at these paths make, at most."""
    photos = remarks = 0
    for path in paths:
        try:
            with zipfile.ZipFile(path) as archive:
                images, others = _entries(archive)
                photos += len(images)
                remarks += bool(others) or not images
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            photos += 1
    return min(photos, MAX_PHOTOS + 1) + remarks


def _entries(archive: zipfile.ZipFile) -> tuple[list[zipfile.ZipInfo], list[zipfile.ZipInfo]]:
    """The images and the other files in an archive, by their names, without hidden ones."""
    listed = archive.infolist()
    if len(listed) > MAX_ENTRIES:
        raise ValueError(f"more than {MAX_ENTRIES} entries")
    # Not entry.is_dir(): that fails at a name of no letters.
    files = [entry for entry in listed if not entry.filename.endswith("/") and not _added_by_system(entry.filename)]
    return (
        [entry for entry in files if is_image_name(entry.filename)],
        [entry for entry in files if not is_image_name(entry.filename)],
    )


def _rest(others: Sequence[zipfile.ZipInfo]) -> str:
    return passed_over([printable(entry.filename) for entry in others])


def _added_by_system(name: str) -> bool:
    """Whether it is hidden or macOS's; `..` isn't hidden, and harmless here."""
    return any(part == "__MACOSX" or (part.startswith(".") and part.strip(".")) for part in name.split("/"))


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    if entry.flag_bits & 1:
        raise ImageError("locked with a password")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others take memory as the archive says
        raise ImageError("packed in an unusual way: zip it anew")
    try:
        with archive.open(entry) as file:
            data = file.read(limit + 1)
    except Exception as error:  # a damaged entry: zlib.error, lzma.LZMAError, EOFError, BadZipFile, ...
        raise ImageError("damaged in the archive") from error
    if len(data) > limit:
        raise ImageError(f"too large: {MAX_BYTES // 1024**2} MB a photo are the most")
    if zipfile.is_zipfile(io.BytesIO(data)):
        raise ImageError("an archive in an archive")
    return data


def printable(name: str) -> str:
    """A name from outside on one line, without what could reverse or hide parts of it."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)[-200:]


def write_csv(rows: Iterable[Row], file: TextIO) -> None:
    """Writes rows, the header first, as CSV; `file` is opened with newline=''."""
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for row in rows:
        ms = "" if row.ms is None else round(row.ms, 1)
        tokens = "" if row.tokens is None else row.tokens
        writer.writerow([_as_text(row.name), _as_text(row.caption), _as_text(row.problem), tokens, ms])


def _as_text(value: str) -> str:
    """A spreadsheet runs what begins so as a formula, and names come from outside."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
