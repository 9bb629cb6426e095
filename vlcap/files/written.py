"""A list of the files that vlcap wrote one by one into a person's folder: captions beside photos, files of captions.

The list, .vlcap-written.jsonl, has a line for each file and content: its name and SHA-256. A line is added before the
file is written, so a kill leaves no file of ours that the list does not know. A file whose content is not in the list
belongs to somebody: a person has written or changed it.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from .results import OutputError
from .writing import delete, digest_file, is_being_written

LIST = ".vlcap-written.jsonl"


class WrittenList:
    """The list of a folder. Several processes may add to it.

    Args:
        folder: The folder.

    Raises:
        OutputError: A file in the list's place is not a list of ours.
    """

    def __init__(self, folder: Path):
        self.path = folder / LIST
        if os.path.lexists(self.path) and not (self.path.is_file() and self._is_list()):
            raise OutputError(f"{self.path}: is not a list written by vlcap: move it or choose another folder")

    def _is_list(self) -> bool:
        with open(self.path, "rb") as file:
            first = file.readline(65536)
        return not first.endswith(b"\n") or _entry(first) is not None  # a kill may have cut the only line

    @cached_property
    def _known(self) -> dict[str, set[str]]:
        """Digests of each file's contents, as they were when first asked for."""
        known: dict[str, set[str]] = {}
        if self.path.is_file():
            with open(self.path, "rb") as file:
                for name, digest in filter(None, map(_entry, file)):
                    known.setdefault(name, set()).add(digest)
        return known

    def has(self, path: Path) -> bool:
        """Whether a file of this folder has a content that vlcap wrote."""
        known = self._known.get(path.name, ())
        return bool(known) and path.is_file() and not path.is_symlink() and digest_file(path) in known

    def delete(self, path: Path) -> None:
        """Deletes a file of this folder if it has a content that vlcap wrote."""
        if self.has(path):
            path.unlink()

    def add(self, digests: Mapping[str, str]) -> None:
        """Adds names and SHA-256 of files that will be written next."""
        lines = [json.dumps({"vlcap wrote": name, "sha256": digest}) + "\n" for name, digest in digests.items()]
        with open(self.path, "ab+", buffering=0) as file:
            if end := file.seek(0, os.SEEK_END):
                file.seek(end - 1)
                if file.read(1) != b"\n":  # a kill has cut the last line
                    lines.insert(0, "\n")
            file.write("".join(lines).encode())  # in one piece: another process may add lines, too
            os.fsync(file.fileno())


def _entry(line: bytes) -> tuple[str, str] | None:
    """Name and digest on a line of a list; None if a kill has cut it."""
    try:
        values = json.loads(line)
        name, digest = values["vlcap wrote"], values["sha256"]
        return (name, digest) if isinstance(name, str) and isinstance(digest, str) else None
    except (ValueError, TypeError, KeyError):
        return None


def delete_unfinished(paths: Iterable[Path]) -> None:
    """Deletes what killed runs left of files of these names: `replacing` writes them under names that are ours.

    What another run is writing at this moment stays.
    """
    folders: dict[Path, set[str]] = {}
    for path in paths:
        folders.setdefault(path.parent, set()).add(path.name)
    for folder, names in folders.items():
        # Only names of the form that `replacing` gives, and only those of our files.
        left = [each for each in folder.iterdir() if (found := UNFINISHED.fullmatch(each.name)) and found[1] in names]
        delete((each for each in left if not is_being_written(each)), UNFINISHED)


UNFINISHED = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp", re.DOTALL)
