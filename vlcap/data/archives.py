"""Photos from files and zip archives that a stranger chose.

The demo's page of many photos uses it, through `read_photos`. An archive is read in memory, photo by photo. Nothing in
it is written to disk, so no name in it can lead anywhere. The sizes that an archive claims are not trusted.
"""

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .finding import describe_skipped, is_image_name
from .images import ImageError
from .names import printable

MAX_PHOTOS = 64  # per batch: about a minute of work for a small machine
MAX_ENTRIES = 4096  # per archive, including skipped files
MAX_BYTES = 20 * 1024**2  # per photo, unpacked
MAX_ALL_BYTES = 200 * 1024**2  # for all photos of an archive, unpacked
# What zipfile raises for damaged archives.
DAMAGE = (zipfile.BadZipFile, OSError, ValueError, NotImplementedError)


def read_photos(files: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, Path | bytes | ImageError]]:
    """Photos of files and archives, each as a name and its source: a path, the bytes of an entry, or an error.

    Args:
        files: Name and path of each file: photos and zip archives.
    """
    left = MAX_PHOTOS
    for name, path in files:
        name = printable(name)
        archive = zipfile.is_zipfile(path)
        for photo, source in read_zip(name, path) if archive else [(name, path)]:
            if archive and photo == name and isinstance(source, ImageError):  # about the archive, not about a photo
                yield photo, source
                continue
            if not left:
                yield photo, ImageError(f"left out, with all files after it: at most {MAX_PHOTOS} photos per batch")
                return
            left -= 1
            yield photo, source


def read_zip(name: str, path: Path) -> Iterator[tuple[str, bytes | ImageError]]:
    """The photos of an archive, unpacked within the limits, and one error for all files that are not images.

    Folders and the hidden files that systems add are skipped.

    Args:
        name: Name of the archive, which errors about the archive itself get.
        path: The archive.
    """
    left = MAX_ALL_BYTES
    try:
        with zipfile.ZipFile(path) as archive:
            photos, others = _entries(archive)
            if not photos:
                yield name, ImageError("no photos in this archive" + (f": {_skipped(others)}" if others else ""))
            for entry in photos:
                label = printable(entry.filename)
                if left <= 0:
                    yield label, ImageError("left out, with all files after it: the archive is too large unpacked")
                    return
                try:
                    data = _unpack(archive, entry, limit=min(MAX_BYTES, left))
                    left -= len(data)
                    yield label, data
                except ImageError as error:
                    left -= MAX_BYTES
                    yield label, error
            if photos and others:
                yield name, ImageError(_skipped(others))
    except DAMAGE as error:
        yield name, ImageError(f"damaged archive ({' '.join(str(error).split()) or type(error).__name__})")


def count_photos(paths: Iterable[Path]) -> int:
    """Largest number of photos and errors that `read_photos` gives for these files."""
    photos = remarks = 0
    for path in paths:
        try:
            with zipfile.ZipFile(path) as archive:
                images, others = _entries(archive)
                photos += len(images)
                remarks += bool(others) or not images
        except DAMAGE:
            photos += 1
    return min(photos, MAX_PHOTOS + 1) + remarks


def _entries(archive: zipfile.ZipFile) -> tuple[list[zipfile.ZipInfo], list[zipfile.ZipInfo]]:
    """The images and the other files in an archive, judged by their names, without hidden ones."""
    listed = archive.infolist()
    if len(listed) > MAX_ENTRIES:
        raise zipfile.BadZipFile(f"more than {MAX_ENTRIES} entries")
    # Not entry.is_dir(): that fails on an empty name.
    files = [entry for entry in listed if not entry.filename.endswith("/") and not _added_by_system(entry.filename)]
    return (
        [entry for entry in files if is_image_name(entry.filename)],
        [entry for entry in files if not is_image_name(entry.filename)],
    )


def _skipped(others: Sequence[zipfile.ZipInfo]) -> str:
    return describe_skipped([printable(entry.filename) for entry in others])


def _added_by_system(name: str) -> bool:
    """Whether a file is hidden or added by macOS. `..` is not hidden, and harmless here."""
    return any(part == "__MACOSX" or (part.startswith(".") and part.strip(".")) for part in name.split("/"))


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    """The bytes of an entry.

    Raises:
        ImageError: The entry is locked, damaged, larger than the limit, or an archive itself.
    """
    if entry.flag_bits & 1:
        raise ImageError("locked with a password")
    # Other methods take as much memory as the archive claims.
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ImageError("packed in an unusual way: zip it anew")
    try:
        with archive.open(entry) as file:
            data = file.read(limit + 1)
    except Exception as error:  # a damaged entry: zlib.error, lzma.LZMAError, EOFError, BadZipFile, ...
        raise ImageError("damaged in the archive") from error
    if len(data) > limit:
        raise ImageError(f"too large: at most {MAX_BYTES // 1024**2} MB per photo")
    if zipfile.is_zipfile(io.BytesIO(data)):
        raise ImageError("an archive in an archive")
    return data
