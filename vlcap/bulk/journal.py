"""The journal of a run that captions photos into files: what it has captioned until now.

    captions.csv.unfinished-0.jsonl      of process 0, beside the file captions.csv

The first line says what the run depends on. Each further line has one photo and its rows. The lines of a group of
photos are written at once and forced to the disk. A kill can cut the last line, which is then dropped. The journals
are deleted when the run is complete.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from ..files.writing import delete
from .rows import Row, TableError

VERSION = 1


@dataclass(frozen=True)
class Done:
    """What a run found out about a photo.

    Attributes:
        rows: Its rows.
        left_out: Number of its captions that score below --min-score.
    """

    rows: list[Row]
    left_out: int = 0


@dataclass(frozen=True)
class Left:
    """What interrupted runs have left.

    Attributes:
        settings: What their captions depend on; None if there is no journal.
        done: The photos that are done, by their names in the file of captions.
        finished: SHA-256 of the finished file, if a run was killed just before or after it put it into its place.
    """

    settings: dict[str, Any] | None
    done: dict[str, Done]
    finished: str | None


class Journals:
    """The journals of a file of captions, one for each process.

    Args:
        file: The file of captions.
    """

    def __init__(self, file: Path):
        self.file = file
        self.names = re.compile(rf"{re.escape(file.name)}\.unfinished-\d+\.jsonl")

    def paths(self) -> list[Path]:
        """The journals that exist, sorted by name."""
        parent = self.file.parent
        return sorted(parent / name for name in os.listdir(parent) if self.names.fullmatch(name))

    def read(self) -> Left:
        """Reads all journals.

        Raises:
            TableError: A file in a journal's place is none, or is damaged, or the journals belong to different runs.
        """
        settings, done, finished = None, dict[str, Done](), None
        for path in self.paths():
            header, *lines = _lines(path)
            if header is None:  # the run was killed before it wrote a whole line
                continue
            if settings not in (None, header):
                raise TableError(f"{path}: belongs to another run than the other journals here: delete one of them")
            settings = header
            for number, line in enumerate(lines, 2):
                if "finished" in line:
                    finished = line["finished"]
                    continue
                try:
                    rows = [Row(line["image"], *each) for each in line["rows"]]
                    done[line["image"]] = Done(rows, line.get("left_out", 0))
                except (KeyError, TypeError):
                    raise TableError(f"{path}, line {number}: damaged: delete this file to begin anew") from None
        return Left(settings, done, finished)

    def check_settings(self, then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
        """Checks that an interrupted run, if there was one, had the same settings as this one.

        Raises:
            TableError: It had others.
        """
        if then is None or then == now:
            return
        journal = self.paths()[0]
        if then.get("file") != now.get("file"):
            raise TableError(
                f"{self.file}: was changed since an interrupted run began to add to it: delete {journal} to begin anew"
            )
        names = [name for name in now if now[name] != then.get(name)]
        different = ", ".join(f"{name} {then.get(name)!r}, now {now[name]!r}" for name in names)
        raise TableError(
            f"{journal}: an interrupted run had other settings ({different:.300}): repeat its command, or delete this "
            "file to begin anew"
        )

    def open(self, number: int, settings: Mapping[str, Any]) -> "Journal":
        """This process's journal, to be written on."""
        return Journal(self.file.with_name(f"{self.file.name}.unfinished-{number}.jsonl"), settings)

    def delete(self) -> None:
        """Deletes the journals. `read` has found that they are ours."""
        delete(self.paths(), self.names)


class Journal:
    """One process's journal, to be written on. What a kill has cut is removed first."""

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self._file = open(path, "ab+", buffering=0)  # noqa: SIM115 - until `close`
        self._file.seek(0)
        whole = self._file.read()
        end = whole.rfind(b"\n") + 1
        self._file.truncate(end)
        if not end:
            self._append({"vlcap captions": VERSION, "settings": dict(settings)})

    def add(self, group: Sequence[tuple[str, Done]]) -> None:
        """Adds what was found out about a group of photos, each under its name. It is on the disk afterwards."""
        self._append(
            *(
                {"image": name, "rows": [astuple(row)[1:] for row in done.rows], "left_out": done.left_out}
                for name, done in group
            )
        )

    def finish(self, digest: str) -> None:
        """Says that a file of this SHA-256 will now take its place."""
        self._append({"finished": digest})

    def close(self) -> None:
        self._file.close()

    def _append(self, *values: Any) -> None:
        content = "".join(json.dumps(value) + "\n" for value in values).encode()
        while content:  # a write to a nearly full disk takes a part, and the next one fails
            content = content[self._file.write(content) :]
        os.fsync(self._file.fileno())


def _lines(path: Path) -> list[Any]:
    """The settings of a journal, None if they are not whole, and then its whole lines.

    Raises:
        TableError: It is no journal, or damaged.
    """
    with open(path, "rb") as file:
        content = file.read()
    lines = content.split(b"\n")[:-1]
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
            if not isinstance(found[-1], dict):
                raise TableError("not an object")
        except ValueError:
            raise TableError(f"{path}, line {number}: not a journal of vlcap, or damaged: move it elsewhere") from None
    if not found:
        if content and not b'{"vlcap captions": '.startswith(content[:19]):
            raise TableError(f"{path}: not a journal of vlcap: move it elsewhere")
        return [None]
    if found[0].get("vlcap captions") != VERSION or "settings" not in found[0]:
        raise TableError(f"{path}: not a journal of this version of vlcap: move it elsewhere")
    return [found[0]["settings"], *found[1:]]
