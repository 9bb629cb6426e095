"""Randomness as a function of (seed, step): what makes a resumed run the same as one never interrupted.

Nothing random is carried from step to step. Which images a step sees, how each is augmented, which budget is drawn and
every dropout mask follow from the seed and the step's number alone, so there is no generator state to save or lose.
"""

import contextlib
import multiprocessing
import random
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .recipe import RecipeError

STOPS = {signal.SIGINT, signal.SIGTERM}
MASKS = hasattr(signal, "pthread_sigmask")  # Windows has none


def seed_all(*numbers: int) -> None:
    """Seeds Python, NumPy and PyTorch from a tuple of whole numbers."""
    low, high = np.random.SeedSequence(numbers).generate_state(2)
    random.seed(int(low))
    np.random.seed(int(high))
    seed = int(low) << 32 | int(high)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed also writes down, in half a millisecond, who asked
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def draw_budget(budgets: list[int] | None, seed: int, step: int) -> int | None:
    """The token budget of a step (section 3.3: one per batch, uniform); the same in every process."""
    if not budgets:
        return None
    return random.Random(f"{seed} {step}").choice(budgets)


class StepBatches:
    """Batch sampler over endless shuffled epochs, started at any step.

    Yields lists of (draw, index): `draw` counts every image ever drawn and seeds its augmentation. Each process takes
    its slice of the same global batch.
    """

    def __init__(self, images: int, batch_size: int, seed: int, start: int, stop: int, rank: int = 0, world: int = 1):
        if batch_size % world:
            raise RecipeError(f"batch_size {batch_size} is not a multiple of the {world} processes")
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.start, self.stop = start, stop
        self.share = slice(rank * batch_size // world, (rank + 1) * batch_size // world)
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        return self.stop - self.start

    def index(self, draw: int) -> int:
        epoch, position = divmod(draw, self.images)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.images)
        return int(self._order[position])

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.stop):
            draws = range(step * self.batch_size, (step + 1) * self.batch_size)
            yield [(draw, self.index(draw)) for draw in draws[self.share]]


class SeededDataset(Dataset):
    """A data set whose item (draw, index) is `dataset[index]` under a generator seeded by the draw."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]):
        draw, index = key
        seed_all(self.seed, draw)
        return self.dataset[index]


def in_worker(number: int) -> None:
    """What a data loading process does first: to leave Ctrl-C and SIGTERM to the training process, which answers them.

    Whoever stops a job sends them to all of its processes at once. A second SIGTERM is PyTorch's own and ends this one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    if MASKS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def read(loader: DataLoader) -> Iterator[Any]:
    """A loader's batches; its processes end with the last one or the first error.

    Else the error would keep them alive, and Python would wait for them at its end for ever. Until a process knows what
    to do with a signal (`in_worker`), signals wait.
    """
    with _signals_waiting():
        batches = iter(loader)
    try:
        yield from batches
    finally:
        if loader.num_workers:
            batches._shutdown_workers()


@contextlib.contextmanager
def _signals_waiting() -> Iterator[None]:
    """Until the end of this, Ctrl-C and SIGTERM wait; also for processes that are started meanwhile."""
    if not MASKS:
        yield
        return
    if (multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]) != "fork":
        resource_tracker.ensure_running()  # now: starting it later would let the signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
