"""The lock of a place that a run writes to. The system releases it, however the run ends."""

from pathlib import Path

from filelock import FileLock, Timeout

from .rows import TableError


class RunLock:
    """A lock in a file of its own.

    Args:
        path: The file; it exists while the lock is held.
    """

    def __init__(self, path: Path):
        self._lock = FileLock(path)

    def take(self, refusal: TableError) -> None:
        """Takes the lock.

        Raises:
            TableError: Another run has it; this is the given one.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise refusal from None

    def release(self) -> None:
        """Lets other runs take it, and deletes the file; nothing happens if this run does not have it."""
        if self._lock.is_locked:
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()
