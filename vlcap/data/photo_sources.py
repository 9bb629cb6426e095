"""Where the photos of a caption set are: files, parts of tar archives, or rows of a data set on disk."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .files import file_size
from .images import ImageError


@dataclass(frozen=True)
class ArchivedPhoto:
    """A photo inside a tar archive that is not compressed. It is read from its place, without unpacking the archive.

    Attributes:
        archive: Path of the archive.
        offset: Place of the photo's first byte.
        size: Size in bytes.
    """

    archive: str
    offset: int
    size: int


Source = str | ArchivedPhoto | Mapping[str, Mapping]  # the last: {"image": {"bytes", "path"}}


def content_of(source: Source, most: int | None = None) -> bytes:
    """The bytes of a photo's file.

    Args:
        source: Place of the photo.
        most: Number of bytes to read from the start; None reads all.

    Raises:
        ImageError: The file or the archive cannot be read.
    """
    if isinstance(source, Mapping):
        return source["image"]["bytes"][:most]
    path, offset, size = (source, 0, -1) if isinstance(source, str) else (source.archive, source.offset, source.size)
    if not os.path.isfile(path):  # reading a device or a pipe could take forever
        raise ImageError(f"{path}: cannot be read (not a file)")
    try:
        with open(Path(path), "rb") as file:
            file.seek(offset)
            return file.read(size if most is None else most if size < 0 else min(size, most))
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error


def size_of(source: str | ArchivedPhoto) -> int:
    """Size of a photo's file in bytes; -1 if it cannot be read."""
    return file_size(source) if isinstance(source, str) else source.size
