"""Data loading processes: which signals they get, and when they end."""

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

from torch.utils.data import DataLoader

STOPS = {signal.SIGINT, signal.SIGTERM}
MASKS = hasattr(signal, "pthread_sigmask")  # not on Windows


def in_worker(number: int) -> None:
    """Makes a data loading process ignore Ctrl-C and the first SIGTERM: the training process answers them.

    Job managers send these signals to all processes of a job at once. A second SIGTERM is handled by PyTorch, and ends
    the data loading process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    if MASKS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def read(loader: DataLoader) -> Iterator[Any]:
    """Yields a loader's batches; ends its processes after the last batch or at the first error.

    Without this, an error would keep the processes alive, and Python would wait for them forever when it exits. Signals
    are blocked until each process has set its handlers (`in_worker`).
    """
    with _signals_blocked():
        batches = iter(loader)
    try:
        yield from batches
    finally:
        if loader.num_workers:
            batches._shutdown_workers()


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Blocks Ctrl-C and SIGTERM in this process and in the processes that it starts meanwhile."""
    if not MASKS:
        yield
        return
    if (multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]) != "fork":
        resource_tracker.ensure_running()  # now: starting it later would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
