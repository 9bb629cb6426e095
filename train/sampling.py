"""Randomness as a function of (seed, step): a resumed run is the same as an uninterrupted one.

No random state is carried from step to step. The images of a step, their augmentation, the budget and every dropout
mask depend on the seed and the step's number alone, so there is no generator state to save or lose.
"""

import random
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset

from .recipe import RecipeError


def seed_all(*numbers: int) -> None:
    """Seeds Python, NumPy and PyTorch from a tuple of whole numbers."""
    low, high = np.random.SeedSequence(numbers).generate_state(2)
    random.seed(int(low))
    np.random.seed(int(high))
    seed = int(low) << 32 | int(high)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed also records its caller, which takes half a ms
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def draw_budget(budgets: list[int] | None, seed: int, step: int) -> int | None:
    """The token budget of a step (section 3.3: one per batch, uniform); the same in every process."""
    if not budgets:
        return None
    return random.Random(f"{seed} {step}").choice(budgets)


class StepBatches:
    """Batch sampler over endless shuffled epochs that can start at any step.

    Yields lists of (draw, index): `draw` counts all images drawn so far and seeds the augmentation. Each process takes
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
    """A data set whose item (draw, index) is `dataset[index]`, computed with random generators seeded by the draw."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]):
        draw, index = key
        seed_all(self.seed, draw)
        return self.dataset[index]
