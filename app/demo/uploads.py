"""The folder of all that visitors upload: its quota, what is deleted when, and what a killed demo left behind."""

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from vlcap.files.locking import CAN_LOCK, try_lock

PREFIX = "vlcap-demo-"
LOCK = ".running"  # held by the demo that a folder belongs to
MARK = "the files of a running vlcap demo\n"  # in the lock: only a folder with it is ever deleted
KEPT = 3600  # seconds that a visitor's file is kept
KEPT_WHEN_FULL = 600  # seconds that it is kept at least, when others need the room
UNFINISHED = 600  # seconds without a byte, after which an upload's part is deleted
QUOTA = 512 * 1024**2  # bytes of all files together
SMALLEST = 64 * 1024  # bytes that a file counts at least, so that the number of files is bounded too
LEFT_BEHIND = 24 * 3600  # seconds without a change, after which a folder is dead where files can't be locked


class FullError(Exception):
    """There is no room for an upload."""


class Uploads:
    """The files of one running demo.

    Args:
        folder: Where Gradio puts uploads and results.
        own: Whether the folder belongs to this demo alone, so that files in it may be deleted by age.
    """

    def __init__(self, folder: Path, own: bool):
        self.folder = folder
        self.own = own
        self.level = 0  # bytes used, measured when an upload starts and counted while it arrives
        self.arriving = 0  # number of uploads
        self.kept: Callable[[], Collection[str]] = set  # files of the page itself

    @contextlib.contextmanager
    def arrival(self, size: int) -> Iterator[Callable[[int], None]]:
        """An upload of `size` bytes, 0 if unknown. Gives the function that is told how many bytes have arrived.

        All uploads that arrive at once share one level, so that together they can't exceed the quota either. Nothing
        is reserved for bytes that may never come.

        Raises:
            FullError: The quota would be exceeded; the function raises it too.
        """
        self.level = self.used()
        if self.own and self.level + size > QUOTA:
            self.sweep(KEPT_WHEN_FULL)
            self.level = self.used()

        def count(more: int) -> None:
            self.level += more
            if self.level > QUOTA:
                raise FullError

        count(size)
        self.level -= size
        self.arriving += 1
        try:
            yield count
        finally:
            self.arriving -= 1
            if self.own and not self.arriving:
                self.sweep_unfinished(0)

    def used(self) -> int:
        """Bytes of all files, each counted as `SMALLEST` at least."""
        return sum(max(found.st_size, SMALLEST) for _, found in self._files())

    def sweep(self, age: float = KEPT) -> None:
        """Deletes files that have not been changed for so many seconds, except those of the page itself."""
        kept, limit = {str(path) for path in self.kept()}, time.time() - age
        for path, found in list(self._files()):
            if found.st_ctime < limit and str(path) not in kept and path.name != LOCK:
                _delete(path)
        self.sweep_unfinished(UNFINISHED)

    def sweep_unfinished(self, age: float) -> None:
        """Deletes parts of uploads that were broken off. Gradio moves whole ones from here into folders."""
        limit = time.time() - age
        for path, found in list(self._files(below=False)):
            if found.st_mtime <= limit and path.name != LOCK:
                _delete(path)

    def _files(self, below: bool = True) -> Iterator[tuple[Path, os.stat_result]]:
        for place, _, names in os.walk(self.folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    path = Path(place, name)
                    yield path, path.lstat()
            if not below:
                return


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A new temporary folder, deleted at the end, after those that killed demos left behind."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if _is_dead(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with open(folder / LOCK, "w", encoding="utf-8") as lock:  # released by the system, however the process ends
            try_lock(lock)  # before it has its mark: no other demo may take this one for dead
            lock.write(MARK)
            lock.flush()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_dead(folder: Path) -> bool:
    """Whether a folder is a demo's of this user, and the demo has ended. Links are left alone."""
    try:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
            return False
        with open(folder / LOCK, encoding="utf-8") as lock:
            if lock.read(len(MARK) + 1) != MARK:
                return False
            return try_lock(lock) if CAN_LOCK else time.time() - found.st_mtime > LEFT_BEHIND
    except (OSError, ValueError):  # without the marker, the folder is somebody's
        return False


def _delete(path: Path) -> None:
    """Deletes a file, and its folder if that is empty now."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()
