"""Finds the photos of a bulk run, and parts them into units (vlcap/bulk/units.py).

Sources are photos, folders of photos, parquet files and webdataset archives, at paths or at URLs that fsspec knows. In
folders, the same photos are found as by `vlcap caption FOLDER`, and the archives and tables besides.
"""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data.finding import UNREAD_SUFFIXES, describe_skipped, find_images, is_image_name
from ..data.names import shown
from .units import COLUMN, DamagedError, SourceError, Unit, filesystem, is_url, opened, tar_photos

KINDS = (".tar", ".parquet")


class NoPhotosError(SourceError):
    """A parquet file is a table of something else."""


@dataclass
class Sources:
    """What was found.

    Attributes:
        photos: Paths and URLs of photos, each once. Paths are absolute.
        containers: Paths and URLs of archives and tables.
        named: Those of the containers that were named, and not found in a folder.
        roots: Paths that were named. Each machine that reads the photos needs them.
        others: Files in folders that are skipped.
        problems: One line for each folder that cannot be read.
    """

    photos: list[str] = field(default_factory=list)
    containers: list[str] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    roots: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every picture is among the photos."""
        return not self.problems and not any(
            os.path.splitext(name)[1].lower() in UNREAD_SUFFIXES for name in self.others
        )

    def remarks(self) -> list[str]:
        """One line for each folder that cannot be read, and one for the skipped files."""
        return [*self.problems, *([describe_skipped(self.others)] if self.others else [])]

    def _keep(self, names: Sequence[str]) -> None:
        """Sorts the files of a folder that are no photos: archives and tables are read, too."""
        archives = {os.path.splitext(name)[0] for name in names if name.lower().endswith(".tar")}
        for name in names:
            stem, kind = os.path.splitext(name)
            # img2dataset writes 00000.parquet, without photos, beside each 00000.tar
            wanted = kind.lower() in KINDS and not (kind.lower() == ".parquet" and stem in archives)
            (self.containers if wanted else self.others).append(name)


def find_sources(names: Sequence[str], out: Path) -> Sources:
    """Finds the photos, archives and tables that paths and URLs name.

    Args:
        names: The paths and URLs. A URL may have wildcards.
        out: Folder of the results; what is in it is left out.

    Raises:
        SourceError: A URL cannot be listed.
    """
    found = Sources()
    paths = [os.path.abspath(name) for name in names if not is_url(name)]
    tables = [path for path in paths if path.lower().endswith(KINDS) and os.path.isfile(path)]
    found.containers += tables
    found.named |= set(tables)
    photos = find_images([path for path in paths if path not in tables])
    found.problems += photos.problems
    place = Path(os.path.realpath(out))
    found._keep([str(path) for path in photos.others if place not in Path(os.path.realpath(path)).parents])
    for path in photos.images:  # a folder among them has no photos; that is right if it has archives or tables
        if not (path.is_dir() and any(Path(each).is_relative_to(path) for each in found.containers)):
            found.photos.append(str(path))
    found.roots = [path for path in dict.fromkeys(paths) if os.path.exists(path)]
    for name in names:
        if is_url(name):
            _find_at(name, found)
    found.photos = [*dict.fromkeys(found.photos)]
    found.containers = [*dict.fromkeys(found.containers)]
    return found


def _find_at(url: str, found: Sources) -> None:
    """Adds what is at a URL: a file, a folder with all that is below it, or what its wildcards fit."""
    if url.startswith("memory:"):
        raise SourceError(f"{url}: is in the memory of one process: name files that all machines can reach")
    files, path = filesystem(url)
    try:
        places = sorted(files.glob(path)) if glob.has_magic(path) else [path]
        for place in places:
            if not files.isdir(place):
                name = files.unstrip_protocol(place)
                if name.lower().endswith(KINDS):
                    found.containers.append(name)
                    found.named.add(name)
                else:
                    found.photos.append(name)
                continue
            top = place.rstrip("/")
            below = [each for each in sorted(files.find(place)) if not _hidden(each.removeprefix(top))]
            urls = [files.unstrip_protocol(each) for each in below]
            found.photos += [each for each in urls if is_image_name(each)]
            found._keep([each for each in urls if not is_image_name(each)])
    except Exception as error:  # each file system raises its own
        raise SourceError(f"{url}: cannot be listed ({' '.join(str(error).split()):.200})") from error
    if not places:
        raise SourceError(f"{url}: fits no file")


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def units_of_files(photos: Sequence[str], size: int) -> list[Unit]:
    """Photos in units of this size; the last one may be smaller."""
    parts = (tuple(photos[start : start + size]) for start in range(0, len(photos), size))
    return [Unit("files", len(part), part) for part in parts]


def units_of(place: str, size: int) -> list[Unit]:
    """The units of an archive or a table, each of `size` photos; the last one may be smaller.

    A damaged file is one unit, which says what is wrong. So it has a row among the captions.

    Raises:
        NoPhotosError: It is a table without photos.
        SourceError: It cannot be read.
    """
    try:
        return (_tar_units if place.lower().endswith(".tar") else _parquet_units)(place, size)
    except DamagedError as error:
        return [Unit("damaged", 1, place=place, problem=f"damaged, none of its photos is captioned ({error})")]


def _tar_units(place: str, size: int) -> list[Unit]:
    starts, count, known = [], 0, set()
    with opened(place) as (file, length):
        for _, member in tar_photos(file, length):
            if member.name in known:
                raise DamagedError(f"{shown(member.name)} is in the archive twice")
            known.add(member.name)
            if count % size == 0:
                starts.append(member.offset)
            count += 1
    if not count:
        raise DamagedError("there are no photos in it")
    numbers = [size] * (len(starts) - 1) + [count - size * (len(starts) - 1)]
    ends = [*starts[1:], length]
    return [
        Unit("tar", number, place=place, start=start, stop=stop, size=length)
        for number, start, stop in zip(numbers, starts, ends, strict=True)
    ]


def _parquet_units(place: str, size: int) -> list[Unit]:
    import pyarrow.parquet
    import pyarrow.types as types

    with opened(place) as (file, length):
        table = pyarrow.parquet.ParquetFile(file)
        schema, rows = table.schema_arrow, table.metadata.num_rows
    kind = schema.field(COLUMN).type if schema.names.count(COLUMN) == 1 else None
    if kind is not None and types.is_struct(kind):
        kind = next((each.type for each in kind if each.name == "bytes"), None)
    if kind is None or not (types.is_binary(kind) or types.is_large_binary(kind)):
        raise NoPhotosError(
            f"{place}: needs a column {COLUMN} with the bytes of photos, there is "
            f"{', '.join(f'{each.name} ({each.type})' for each in schema):.200}"
        )
    if not rows:
        raise DamagedError("there are no rows in it")
    return [
        Unit("parquet", stop - start, place=place, start=start, stop=stop, size=length)
        for start in range(0, rows, size)
        for stop in [min(rows, start + size)]
    ]
