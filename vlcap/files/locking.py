"""Locks of files that the system releases, however the process that holds them ends."""

from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CAN_LOCK = fcntl is not None


def try_lock(file: IO[Any]) -> bool:
    """Whether this process has the lock of an open file now, until it closes it; True where files can't be locked."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:  # another process has it, or the file system has no locks
        return False
