"""Reads photos ahead: threads decode files and cut them to size while the model works."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from .images import ImageError

Read = TypeVar("Read")


def read_ahead(
    paths: Iterable[Path],
    read: Callable[[Path], Read],
    ahead: int,
    workers: int | None = None,
) -> Iterator[tuple[Path, Read | ImageError]]:
    """Each path with the photo that was read, or with the error, in the order of the paths.

    Args:
        paths: Paths of the photos.
        read: Function that reads one photo; it is called in threads.
        ahead: Largest number of photos that are read and not yet asked for. It bounds the memory.
        workers: Number of threads; None for one per core, at most 8.
    """

    def attempt(path: Path) -> Read | ImageError:
        try:
            return read(path)
        except ImageError as error:
            return error

    pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1), thread_name_prefix="read-ahead")
    waiting: deque[tuple[Path, Future]] = deque()
    try:
        for path in paths:
            if len(waiting) == ahead:
                first, found = waiting.popleft()
                yield first, found.result()
            waiting.append((path, pool.submit(attempt, path)))
        while waiting:
            first, found = waiting.popleft()
            yield first, found.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
