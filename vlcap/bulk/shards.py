"""Captions in a folder of parquet files, `vlcap caption SOURCE --ray --out FOLDER`.

    captions-00000-of-00012.parquet   the rows of a unit, in the columns of vlcap/bulk/rows.py
    errors.jsonl                      the rows of unreadable photos once more, if there are any
    manifest.json                     what the captions depend on, and at the end what became of the photos

A shard is written whole or not at all. Units whose shard is there are done, and the same command goes on with the
others.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files.json_file import load_json
from ..files.results import check_folder
from ..files.writing import replacing
from ..files.written import LIST, UNFINISHED, WrittenList, delete_unfinished
from .lock import RunLock
from .rows import Row, TableError, rendered
from .units import Unit, is_url

MANIFEST, ERRORS, LOCK = "manifest.json", "errors.jsonl", ".vlcap.lock"
VERSION = 1


@dataclass
class Counts:
    """What became of the photos of some units.

    Attributes:
        captioned: Photos with captions.
        unreadable: Photos, archives and tables that could not be read.
        bare: Photos all of whose captions score too low.
        left_out: Captions that score too low, those of the bare photos among them.
    """

    captioned: int = 0
    unreadable: int = 0
    bare: int = 0
    left_out: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(mine + each for mine, each in zip(vars(self).values(), vars(other).values(), strict=True)))


def name_of(number: int, total: int) -> str:
    """Name of a shard, as Hugging Face names them."""
    return f"captions-{number:05}-of-{total:05}.parquet"


class ShardFolder:
    """The folder. What stands in the way is refused at once, before a captioner is loaded.

    Args:
        folder: The folder; made if it does not exist.

    Raises:
        TableError: It holds files of somebody else, or another run is writing it.
        OutputError: It cannot be written to.
    """

    def __init__(self, folder: Path):
        if is_url(str(folder).replace(":/", "://", 1)):  # a Path has lost one slash
            raise TableError(f"{folder}: captions come back to this machine: name a folder of its own")
        check_folder(folder)
        self.folder = folder
        self.written = WrittenList(folder)
        self._mine: set[str] = set()  # names of files that this run has written
        self._lock = RunLock(folder / LOCK)
        self._lock.take(TableError(f"{folder}: another run is writing it: wait for its end, or name another"))
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        if os.path.lexists(self.folder / MANIFEST):
            self._check_ours(MANIFEST)
            return
        ours = {name for name in os.listdir(self.folder) if UNFINISHED.fullmatch(name)} | {LIST, LOCK}
        strange = set(os.listdir(self.folder)) - ours
        if strange:
            raise TableError(f"{self.folder}: holds other files ({min(strange)!r:.100}): name a new folder")

    def _check_ours(self, name: str) -> None:
        path = self.folder / name
        if os.path.lexists(path) and name not in self._mine and not self.written.has(path):
            raise TableError(f"{path}: was not written by vlcap, or changed since: move it, or name a new folder")

    def begin(self, units: Sequence[Unit], settings: Mapping[str, Any]) -> list[int]:
        """Finds out what is to be done.

        Args:
            units: All units of the run, in their order.
            settings: What the captions depend on.

        Returns:
            The numbers of the units without a shard.

        Raises:
            TableError: An earlier run had other settings or other photos, or somebody has changed its files.
        """
        self.units = units
        digest = hashlib.sha256("\n".join(unit.description() for unit in units).encode()).hexdigest()
        values = {"vlcap captions": VERSION, "settings": dict(settings), "shards": len(units), "photos": digest}
        self.manifest: dict[str, Any] = json.loads(json.dumps(values))  # as it will be read: tuples become lists
        if os.path.lexists(self.folder / MANIFEST):
            self._compare(load_json(self.folder / MANIFEST, error=TableError))
        names = [name_of(number, len(units)) for number in range(len(units))]
        delete_unfinished([self.folder / name for name in (*names, MANIFEST, ERRORS)])
        for name in (*names, ERRORS):
            self._check_ours(name)
        if not os.path.lexists(self.folder / MANIFEST):
            self._write(MANIFEST, _text(self.manifest))
        self.counts, self.problems = Counts(), dict[int, list[Row]]()
        todo = [number for number, name in enumerate(names) if not (self.folder / name).exists()]
        self.done = sorted(set(range(len(units))) - set(todo))
        for number in self.done:
            self._count(number, _read(self.folder / names[number]))
        self.before = self.counts
        return todo

    def _compare(self, then: Any) -> None:
        if not isinstance(then, dict) or then.get("vlcap captions") != VERSION:
            raise TableError(f"{self.folder / MANIFEST}: not a manifest of this version of vlcap: name a new folder")
        now, before = self.manifest["settings"], then.get("settings", {})
        names = [name for name in now if now[name] != before.get(name)]
        different = ", ".join(f"{name} {before.get(name)!r}, now {now[name]!r}" for name in names)
        if different:
            raise TableError(
                f"{self.folder}: an earlier run had other settings ({different:.300}): repeat its command, or name a "
                "new folder"
            )
        if then.get("photos") != self.manifest["photos"]:
            raise TableError(
                f"{self.folder}: the photos are not those of the run that began it (some were added, removed or "
                "renamed): name a new folder"
            )

    def add(self, number: int, rows: Sequence[Row], counts: Counts) -> None:
        """Writes the shard of a unit. It is on the disk afterwards."""
        name = name_of(number, len(self.units))
        self._write(name, rendered(self.folder / name, None, rows))
        self._count(number, rows)
        self.counts.left_out += counts.left_out

    def _count(self, number: int, rows: Sequence[Row]) -> None:
        captioned = {row.image for row in rows if row.caption}
        problems = [row for row in rows if row.problem]
        bare = {row.image for row in rows if not row.problem} - captioned
        self.counts = self.counts + Counts(len(captioned), len(problems), len(bare))
        if problems:
            self.problems[number] = problems

    def finish(self) -> None:
        """Writes errors.jsonl, and the counts into the manifest. To be called when no unit is left."""
        if self.problems:
            rows = [row for number in sorted(self.problems) for row in self.problems[number]]
            self._write(ERRORS, rendered(self.folder / ERRORS, None, rows))
        counts = {name: count for name, count in asdict(self.counts).items() if name != "left_out"}
        self._write(MANIFEST, _text({**self.manifest, "finished": counts}))

    def _write(self, name: str, content: bytes) -> None:
        self._check_ours(name)
        self.written.add({name: hashlib.sha256(content).hexdigest()})
        with replacing(self.folder / name, binary=True) as file:
            file.write(content)
        self._mine.add(name)

    def close(self) -> None:
        """Lets other runs write the folder."""
        self._lock.release()


def _text(values: Any) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _read(path: Path) -> list[Row]:
    """The rows of a shard that is ours."""
    import pyarrow.parquet

    return [Row(**row) for row in pyarrow.parquet.ParquetFile(path).read().to_pylist()]
