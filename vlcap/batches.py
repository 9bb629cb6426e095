"""Several batches of photos: side by side on the cores of a CPU, or one after the other.

Two batches with one thread each take less time than one after the other with two threads. No thread waits for another
at the end of an operation, and while one batch is in a Python part, the other computes (docs/speed.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .engines.interface import Engine

Done = TypeVar("Done")


def work_on(engine: Engine, batches: Iterable[NDArray], work: Callable[[Engine, NDArray], Done]) -> Iterator[Done]:
    """The result of `work` for each batch, in the order of the batches. A single batch gets all cores.

    Args:
        engine: The engine. It says how many batches run side by side.
        batches: Pixels, (B, 3, S, S) each. At most one more is read than there are running.
        work: Function that is called with the engine to use, and with the pixels. It may be called in several threads.
    """
    coming = iter(batches)
    begun = list(islice(coming, 2))
    if len(begun) < 2 or engine.lanes == 1:
        for pixels in chain(begun, coming):
            yield work(engine, pixels)
        return
    lanes, lane = engine.lanes, engine.lane()
    pool = ThreadPoolExecutor(lanes, thread_name_prefix="lane")
    waiting: deque[Future[Done]] = deque()
    try:
        for pixels in chain(begun, coming):
            if len(waiting) > lanes:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, lane, pixels))
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def encoded_ahead(encode: Callable[[NDArray], Any], batches: Iterable[NDArray]) -> Iterator[Any]:
    """The compressed tokens of each batch. The next batch is encoded in a thread while the caller works on one."""
    with ThreadPoolExecutor(1, thread_name_prefix="encoder") as pool:
        coming: Future | None = None
        for pixels in batches:
            following = pool.submit(encode, pixels)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()
