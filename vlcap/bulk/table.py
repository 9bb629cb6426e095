"""Captions in one file, `--out FILE`. The file is written whole at the end, from the journals of the processes.

The same command after a kill reads the journals, captions what is missing, and writes the file that an uninterrupted
run would have written.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from .. import processes
from ..data.names import one_line
from ..files.results import check_folder
from ..files.writing import digest_file, replacing
from ..files.written import WrittenList, delete_unfinished
from .journal import Done, Journals, Left
from .lock import RunLock
from .rows import Row, TableError, format_of, name_in, read_rows, rendered
from .work import Captioned

Existing = Literal["skip", "overwrite", "append"]
CHOICES = (
    "--existing skip adds the photos that it lacks, --existing append adds captions to photos that have some, "
    "--existing overwrite replaces a file that vlcap wrote"
)


class Table:
    """A file of captions. What stands in the way is refused at once, before a captioner is loaded.

    Args:
        file: The file; its suffix says which format.
        existing: What to do if it exists. None refuses.

    Attributes:
        outputs: What is written.

    Raises:
        TableError: The file exists and must not be written, or is none that we can read; or its suffix is unknown.
        OutputError: Its folder cannot be written to.
    """

    def __init__(self, file: Path, existing: Existing | None = None):
        self.file, self.existing, self.outputs = file, existing, (file,)
        self.is_first = not processes.several() or processes.connect()
        format_of(file)
        if file.is_dir():
            raise TableError(f"{file}: is a folder, not a file: name a file in it")
        check_folder(file.parent)
        self.written = WrittenList(file.parent)
        self.journals = Journals(file)
        self._lock = RunLock(file.with_name(f".{file.name}.lock"))
        if self.is_first:
            self._lock.take(TableError(f"{file}: another run is writing it: wait for its end, or name another"))
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        self.left = self.journals.read()
        found = digest_file(self.file) if os.path.lexists(self.file) else None
        processes.join([])  # no process deletes or writes before all have read
        self.base: bytes | None = None
        self.found = self.base_digest = found
        if found is not None and found == self.left.finished:  # a run was killed after it wrote the file
            self.ours = True
            if self.existing is None:  # the same command again: it finds all photos done, or captions new ones
                self.base_digest = None
                return
            if self.is_first:
                self.journals.delete()
            self.left = Left(None, {}, None)
        if found is None:
            return
        if self.existing is None:
            raise TableError(f"{self.file}: exists: {CHOICES}")
        self.ours = self.written.has(self.file)
        if self.existing == "overwrite":
            if not self.ours:
                raise TableError(f"{self.file}: was not written by vlcap, or changed since: choose another name")
            return
        self.base = self.file.read_bytes()
        if hashlib.sha256(self.base).hexdigest() != found:
            raise TableError(f"{self.file}: is being written by another program: wait for its end")
        self.there = read_rows(self.file, self.base)

    def begin(self, photos: Sequence[Path], settings: Mapping[str, Any]) -> list[Path]:
        """Opens this process's journal.

        Args:
            photos: Photos of the run.
            settings: What the captions depend on.

        Returns:
            The photos that the file will get rows of, in their order: those done already are among them.

        Raises:
            TableError: An interrupted run had other settings, or the file was changed since; or the file cannot tell
                two photos apart.
        """
        existing = self.existing if self.base_digest else None
        all_settings = json.loads(json.dumps({**settings, "existing": existing, "file": self.base_digest}))
        self.journals.check_settings(self.left.settings, all_settings)
        self.names = {photo: name_in(self.file.parent, photo) for photo in photos}
        by_name: dict[str, Path] = {}
        for photo, name in self.names.items():
            if (other := by_name.setdefault(name, photo)) is not photo:
                raise TableError(
                    f"{self.file}: {one_line(other)} and {one_line(photo)} would both be {name} in it: rename one"
                )
        has_rows = {name for name, _ in self.there} if self.base is not None and self.existing == "skip" else set()
        self.photos = [photo for photo in photos if self.names[photo] not in has_rows]
        self.skipped = len(photos) - len(self.photos)
        if self.is_first:
            delete_unfinished([self.file])
        processes.join([])  # no process writes before all have read
        self.journal = self.journals.open(processes.place()[0], all_settings)
        return self.photos

    def done_before(self, photo: Path) -> Done | None:
        """What an interrupted run found out about a photo."""
        return self.left.done.get(self.names[photo])

    def add(self, group: Sequence[Captioned]) -> None:
        """Keeps the rows of a group of photos. They are on the disk afterwards."""
        names = [self.names[each.photo] for each in group]
        self.journal.add([(name, each.done(name)) for name, each in zip(names, group, strict=True)])

    def finish(self) -> None:
        """Writes the file from all journals and deletes them. The first process does; all have to call this."""
        processes.join([])
        if not self.is_first:
            self.journal.close()
            return
        done = self.journals.read().done
        new = [row for photo in self.photos for row in done[self.names[photo]].rows]
        if self.base is not None and self.existing == "append":
            new = self._additional(new)
        content = rendered(self.file, self.base, new)
        digest = hashlib.sha256(content).hexdigest()
        if self.base is None or self.ours:  # otherwise a person's rows are in it, and `overwrite` must not take them
            self.written.add({self.file.name: digest})
        self.journal.finish(digest)
        self.journal.close()
        if self.found != (digest_file(self.file) if os.path.lexists(self.file) else None):
            raise TableError(f"{self.file}: was changed during the run: move it, and begin anew")
        with replacing(self.file, binary=True) as file:
            file.write(content)
        self.journals.delete()

    def _additional(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that say something new: another caption, or the first word about a photo."""
        there, named = set(self.there), {name for name, _ in self.there}
        return [
            row for row in rows if (row.image, row.caption) not in there and (row.caption or row.image not in named)
        ]

    def close(self) -> None:
        """Lets other runs write the file."""
        self._lock.release()
