"""Units of a bulk run: consecutive photos of the sources. The captions of a unit are one shard of the results.

Which photos make a unit depends on the sources and the size of a shard alone. A unit names its photos and does not
hold them, so it can be sent to another machine and read there.
"""

import contextlib
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from PIL import Image

from ..data.finding import SUFFIXES, UNREAD_SUFFIXES
from ..data.images import ImageError, load_image, one_line
from ..data.names import shown
from ..errors import VlcapError, reason
from .rows import name_in

MAX_PHOTO = 256 * 1024**2  # bytes of a photo in an archive, a table or at a URL, which are held in memory
COLUMN = "image"  # of parquet files: bytes, or a struct with the field bytes, as Hugging Face datasets writes it
ROWS = 16  # of a parquet file in memory at a time
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class SourceError(VlcapError, ValueError):
    """A source cannot be read now, or is none. Captions of its photos can be made later. The message says why."""


class DamagedError(VlcapError, ValueError):
    """An archive or a table is damaged. The message says how, without its name."""


@dataclass(frozen=True)
class Item:
    """A photo of a unit, or the reason why there is none.

    Attributes:
        place: Path or URL of the file that it is in.
        inside: Its place in that file: "/name" in an archive, "#row" in a table; "" if it is the file itself.
        content: Its bytes; None if they are to be read from the file.
        problem: Why it cannot be read; "" if nothing is known to be wrong.
    """

    place: str
    inside: str = ""
    content: bytes | None = None
    problem: str = ""

    def __str__(self) -> str:
        return self.place + self.inside

    def name_in(self, folder: Path) -> str:
        """Its name in a file of captions in `folder`. A URL stays as it is."""
        return (self.place if is_url(self.place) else name_in(folder, Path(self.place))) + self.inside

    def load(self) -> Image.Image:
        """The photo, as `load_image` gives it.

        Raises:
            ImageError: It cannot be read.
            SourceError: A server does not give it.
        """
        name = one_line(self)
        if self.problem:
            raise ImageError(f"{name}: {self.problem}")
        if self.content is not None:
            return load_image(self.content, name=name)
        return load_image(_download(self.place) if is_url(self.place) else self.place, name=name)


@dataclass(frozen=True)
class Unit:
    """A unit.

    Attributes:
        kind: What it is a part of. "damaged" is a file that cannot be read.
        photos: Number of photos.
        files: Paths and URLs of photos, for the kind files.
        place: Path or URL of the archive or table, for the other kinds.
        start: Where it begins there: the byte in an archive, the row in a table.
        stop: Where it ends there, exclusive.
        size: Bytes of the archive or table.
        problem: What is wrong with a damaged file.
    """

    kind: Literal["files", "tar", "parquet", "damaged"]
    photos: int
    files: tuple[str, ...] = ()
    place: str = ""
    start: int = 0
    stop: int = 0
    size: int = 0
    problem: str = ""

    def description(self) -> str:
        """All of it in one line: other photos have another description."""
        return json.dumps(asdict(self))

    def items(self) -> Iterator[Item]:
        """Its photos. Archives and tables are read while the iterator advances.

        Raises:
            SourceError: The archive or table cannot be read any more.
        """
        if self.kind == "files":
            yield from map(Item, self.files)
        elif self.kind == "damaged":
            yield Item(self.place, problem=self.problem)
        else:
            try:
                yield from (_tar_items if self.kind == "tar" else _parquet_items)(self)
            except DamagedError as error:
                raise SourceError(f"{self.place}: was changed since the run began ({error})") from error


def is_url(name: str) -> bool:
    return URL.match(name) is not None


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it.

    Raises:
        SourceError: The package for this kind of URL is missing, or there is none.
    """
    try:
        import fsspec.core

        return fsspec.core.url_to_fs(url)
    except Exception as error:  # ImportError names the package; ValueError the unknown protocol
        raise SourceError(f"{url}: cannot be opened ({reason(error, 200)})") from error


@contextlib.contextmanager
def opened(place: str) -> Iterator[tuple[IO[bytes], int]]:
    """A file at a path or URL, with its size in bytes.

    Raises:
        SourceError: It cannot be opened or read.
        DamagedError: The body of the `with` statement finds it damaged.
    """
    try:
        if not is_url(place):
            if not os.path.isfile(place):  # opening a pipe could wait forever
                raise SourceError(f"{place}: no such file")
            with open(place, "rb") as file:
                yield file, os.fstat(file.fileno()).st_size
            return
        files, path = filesystem(place)
        with files.open(path, "rb") as file:
            yield file, files.size(path)
    except (VlcapError, GeneratorExit):
        raise
    except OSError as error:
        if error.errno is None and not is_url(place):  # pyarrow's, of a damaged file
            raise DamagedError(reason(error, 200)) from error
        raise SourceError(f"{place}: cannot be read ({error.strerror or reason(error, 200)})") from error
    except Exception as error:  # of damaged headers: TarError, ArrowInvalid, ValueError, OverflowError and others
        if is_url(place) and not isinstance(error, (tarfile.TarError, ValueError, ArithmeticError, EOFError)):
            raise SourceError(f"{place}: cannot be read ({reason(error, 200)})") from error  # the server's
        raise DamagedError(reason(error, 200)) from error


def _download(url: str) -> bytes:
    """The bytes of a photo at a URL."""
    files, path = filesystem(url)
    try:
        with files.open(path, "rb") as file:
            content = file.read(MAX_PHOTO + 1)
    except FileNotFoundError:
        raise ImageError(f"{one_line(url)}: no such file") from None
    except Exception as error:  # each file system raises its own
        raise SourceError(f"{url}: cannot be read ({reason(error, 200)})") from error
    if len(content) > MAX_PHOTO:
        raise ImageError(f"{one_line(url)}: too large, the limit is {MAX_PHOTO // 1024**2} MB")
    return content


def tar_photos(file: IO[bytes], size: int, stop: int | None = None) -> Iterator[tuple[tarfile.TarFile, Any]]:
    """The photos in an archive that is not compressed, from where the file stands up to the byte `stop`.

    Pictures of formats that are not read are among them: each will be reported.

    Raises:
        DamagedError: The archive is cut short.
    """
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            if stop is not None and member.offset >= stop:
                return
            base = os.path.basename(member.name)
            kind = os.path.splitext(base)[1].lower()
            if member.isreg() and not base.startswith(".") and kind in SUFFIXES | UNREAD_SUFFIXES:
                if member.issparse() or member.offset_data + member.size > size:
                    raise DamagedError(f"cut short at {shown(member.name)}: copy or download the file again")
                yield archive, member
            archive.members = []  # type: ignore[attr-defined]  # otherwise the list grows with the archive


def _tar_items(unit: Unit) -> Iterator[Item]:
    with opened(unit.place) as (file, size):
        file.seek(unit.start)
        for archive, member in tar_photos(file, size, unit.stop):
            inside = "/" + member.name.encode(errors="surrogateescape").decode(errors="backslashreplace")
            if member.size > MAX_PHOTO:
                yield Item(unit.place, inside, problem=f"too large, the limit is {MAX_PHOTO // 1024**2} MB")
            else:
                yield Item(unit.place, inside, archive.extractfile(member).read())  # type: ignore[union-attr]


def _parquet_items(unit: Unit) -> Iterator[Item]:
    import pyarrow.parquet

    with opened(unit.place) as (file, _):
        table = pyarrow.parquet.ParquetFile(file)
        first = 0  # row of the group
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if first < unit.stop and unit.start < first + rows:
                row = first
                for batch in table.iter_batches(ROWS, row_groups=[group], columns=[COLUMN], use_threads=False):
                    for value in batch.column(0):
                        if unit.start <= row < unit.stop:
                            yield _cell(unit.place, row, value.as_py())
                        row += 1
            first += rows


def _cell(place: str, row: int, value: Any) -> Item:
    """The photo in a cell: its bytes, or a struct with them."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        return Item(place, f"#{row}", problem="this row has no bytes of a photo: embed the photos, not only paths")
    if len(content) > MAX_PHOTO:
        return Item(place, f"#{row}", problem=f"too large, the limit is {MAX_PHOTO // 1024**2} MB")
    return Item(place, f"#{row}", content)
