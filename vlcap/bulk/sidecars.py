"""Captions in a file beside each photo, `--sidecar .txt`: photo.jpg gets photo.txt, clip.mp4 gets clip.mp4.txt.

.txt and .caption hold one caption per line. .json holds the photo's name, and each caption with its score and budget.
Each file is written whole, when its group of photos is captioned. The same command after a kill goes on: a photo with a
file is done, and where existing files are overwritten or added to, a journal in the first folder has those that are.
"""

import codecs
import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import processes
from ..data.finding import is_video_name
from ..data.names import one_line
from ..files.json_file import load_json
from ..files.results import check_folder
from ..files.writing import replacing
from ..files.written import WrittenList, delete_unfinished
from .journal import Done, Journal, Journals, Left
from .lock import RunLock
from .rows import TableError, name_in
from .table import Existing
from .work import Captioned

SUFFIXES = (".txt", ".caption", ".json")


class SidecarError(TableError):
    """A file beside a photo cannot be written. The message says which and why."""


class Sidecars:
    """Files beside photos. What stands in the way is refused at once, before a captioner is loaded.

    Args:
        photos: The photos.
        suffix: Suffix of the files.
        existing: What to do where such a file exists.

    Attributes:
        photos: The photos to caption.
        skipped: Number of photos that have such a file already.
        outputs: What is written.

    Raises:
        SidecarError: Two photos would share a file, or a file exists that must not be changed, or the suffix is
            unknown, or another run is writing such files there.
        OutputError: A folder cannot be written to.
    """

    def __init__(self, photos: Sequence[Path], suffix: str, existing: Existing = "skip"):
        if suffix not in SUFFIXES:
            raise SidecarError(f"--sidecar {suffix}: there are {', '.join(SUFFIXES)}")
        self.is_first = not processes.several() or processes.connect()
        self.suffix, self.existing = suffix, existing
        there = [photo for photo in photos if os.path.lexists(photo) and not os.path.isdir(photo)]
        self.files = {photo: beside(photo, suffix) for photo in there}
        self.outputs = tuple(self.files.values())
        self._check_names()
        folders = sorted({file.parent for file in self.files.values()})
        for folder in folders:
            check_folder(folder)
        self.home = (folders or [Path()])[0] / f".vlcap-sidecars{suffix}"  # beside it are the lock and the journals
        self.journals = Journals(self.home)
        self.journal: Journal | None = None
        self.left = Left(None, {}, None)
        self._lock = RunLock(self.home.with_name(f"{self.home.name}.lock"))
        if folders and self.is_first:
            self._lock.take(SidecarError(f"{self.home.parent}: another run is writing {suffix} files: wait for it"))
        try:
            self._look(folders, photos)
        except BaseException:
            self.close()
            raise

    def _look(self, folders: Sequence[Path], photos: Sequence[Path]) -> None:
        self.lists = {folder: WrittenList(folder) for folder in folders}
        written = {photo: file for photo, file in self.files.items() if os.path.lexists(file)}
        self._check_contents(list(written.values()))
        self.photos = [photo for photo in photos if not (self.existing == "skip" and photo in written)]
        self.skipped = len(photos) - len(self.photos)
        if self.is_first:
            delete_unfinished(self.files.values())
        processes.join([])  # no process writes before all have looked

    def _check_names(self) -> None:
        """Each photo needs a file of its own, that is not itself a photo."""
        owners: dict[str, Path] = {}
        photos = {os.path.abspath(photo) for photo in self.files}
        for photo, file in self.files.items():
            key = os.path.abspath(file)
            if key in photos or (file.exists() and file.samefile(photo)):
                raise SidecarError(f"{one_line(file)}: would be written beside a photo, but is a photo itself")
            if (other := owners.setdefault(key, photo)) is not photo:
                raise SidecarError(
                    f"{one_line(other)} and {one_line(photo)} would share {one_line(file)}: rename one, or write all "
                    "captions into one file with --out"
                )

    def _check_contents(self, there: Sequence[Path]) -> None:
        """A file that a person wrote is not replaced, and what is not a list of captions gets none added."""
        if self.existing == "overwrite":
            foreign = [file for file in there if not self.lists[file.parent].has(file)]
            problem = "was not written by vlcap, or changed since: move it, or leave it with --existing skip"
        elif self.existing == "append":
            foreign = [file for file in there if not self._can_grow(file)]
            problem = "captions cannot be added to it: move it, or leave it with --existing skip"
        else:
            return
        if foreign:
            more = f" (and {len(foreign) - 1} others)" if len(foreign) > 1 else ""
            raise SidecarError(f"{one_line(foreign[0])}: {problem}{more}")

    def _can_grow(self, file: Path) -> bool:
        try:
            self._content(file)
            return file.is_file() and not file.is_symlink()
        except (SidecarError, OSError, UnicodeError):
            return False

    def _content(self, file: Path) -> Any:
        """What captions are added to: the bytes of a text, the object of a .json file."""
        if self.suffix != ".json":
            content = file.read_bytes()
            if "\0" in content.decode():  # UTF-16, or no text at all; what is not UTF-8 raises UnicodeDecodeError
                raise SidecarError(f"{file}: is not a text in UTF-8")
            return content
        values = load_json(file, error=SidecarError)
        captions = values.get("captions") if isinstance(values, dict) else None
        if not isinstance(captions, list) or not all(
            isinstance(each, dict) and isinstance(each.get("caption"), str) for each in captions
        ):
            raise SidecarError(f"{file}: is not of the form that vlcap writes")
        _json(values)
        return values

    def begin(self, photos: Sequence[Path], settings: Mapping[str, Any]) -> list[Path]:
        """Opens this process's journal, if files that exist will be written.

        Args:
            photos: Photos of the run.
            settings: What the captions depend on.

        Returns:
            The photos to caption, in their order: those done already are among them.

        Raises:
            TableError: An interrupted run had other settings.
        """
        if self.existing == "skip" or not self.files:
            return self.photos
        settings = json.loads(json.dumps({**settings, "existing": self.existing}))
        self.left = self.journals.read()
        self.journals.check_settings(self.left.settings, settings)
        processes.join([])  # no process writes before all have read
        self.journal = self.journals.open(processes.place()[0], settings)
        return self.photos

    def _name(self, photo: Path) -> str:
        """The photo's name in the journal."""
        return name_in(self.home.parent, photo)

    def done_before(self, photo: Path) -> Done | None:
        """What an interrupted run found out about a photo."""
        return self.left.done.get(self._name(photo))

    def finish(self) -> None:
        """Deletes the journals: every file is in its place. The first process does; all have to call this."""
        processes.join([])
        if self.journal is not None:
            self.journal.close()
        if self.is_first and self.journal is not None:
            self.journals.delete()

    def close(self) -> None:
        """Lets other runs write such files."""
        self._lock.release()

    def add(self, group: Sequence[Captioned]) -> None:
        """Writes the files of a group of photos. An unreadable photo, and one whose captions are left out, get none.

        With `overwrite`, a file of ours whose captions are now left out is deleted. A file that somebody makes or
        changes during the run stays as it is, with a warning.
        """
        contents: dict[Path, bytes] = {}
        ours: dict[Path, dict[str, str]] = {}
        outdated: list[Path] = []
        for each in group:
            if each.error is not None:
                continue
            if (file := self.files.get(each.photo)) is None:
                raise SidecarError(f"{one_line(each.photo)}: appeared during the run: run the command again")
            exists = os.path.lexists(file)
            if exists and not self._may_write(file):
                warnings.warn(f"{one_line(file)}: was made or changed during the run: left as it is", stacklevel=2)
                continue
            if not each.captions:
                if exists and self.existing == "overwrite":
                    outdated.append(file)
                continue
            before = self._content(file) if exists and self.existing == "append" else None
            content = self._added(before, each) if self.suffix == ".json" else _with_lines(before, each)
            if content is None:
                continue
            contents[file] = content
            if not exists or self.lists[file.parent].has(file):  # otherwise a person's words are in it
                ours.setdefault(file.parent, {})[file.name] = hashlib.sha256(content).hexdigest()
        for folder, digests in ours.items():
            self.lists[folder].add(digests)
        for file, content in contents.items():
            with replacing(file, binary=True) as opened:
                opened.write(content)
        for file in outdated:
            self.lists[file.parent].delete(file)
        if self.journal is not None:
            names = [self._name(each.photo) for each in group]
            self.journal.add([(name, each.done(name)) for name, each in zip(names, group, strict=True)])

    def _may_write(self, file: Path) -> bool:
        """Whether a file that exists is still what it has to be."""
        if self.existing == "overwrite":
            return self.lists[file.parent].has(file)
        return self.existing == "append" and self._can_grow(file)

    def _added(self, before: Any, each: Captioned) -> bytes | None:
        """The content of a .json file; None if it has all these captions."""
        values = before or {"image": name_in(each.photo.parent, each.photo), "captions": []}
        known = {caption["caption"] for caption in values["captions"]}
        new = [
            {"caption": caption.text, "score": round(caption.score, 3), "budget": caption.budget}
            for caption in each.captions
            if caption.text not in known
        ]
        if not new:
            return None
        return _json({**values, "captions": [*values["captions"], *new]})


def beside(photo: Path, suffix: str) -> Path:
    """The file beside a photo: its path, with this suffix in place of its own.

    A video keeps its own suffix before this one: phones save a short video beside each photo, under the same name.
    """
    return Path((str(photo) if is_video_name(photo.name) else os.path.splitext(photo)[0]) + suffix)


def _json(values: Any) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _with_lines(before: bytes | None, each: Captioned) -> bytes | None:
    """The lines of a text, with those captions that it lacks; None if it has all."""
    before = before or b""
    known = {line.strip() for line in before.removeprefix(codecs.BOM_UTF8).splitlines()}
    new = [line for caption in each.captions if (line := caption.text.encode()).strip() not in known]
    if not new:
        return None
    return (before if not before or before.endswith(b"\n") else before + b"\n") + b"\n".join(new) + b"\n"
