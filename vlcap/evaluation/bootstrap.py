"""How sure a comparison is: bootstrap intervals of scores and of paired differences, and the Pareto front."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95  # of the confidence intervals


@dataclass(frozen=True)
class Difference:
    """How much higher row number `row` scores than row number `than`: raw CIDEr on the same photos, an interval."""

    row: int
    than: int
    CIDEr: float
    low: float
    high: float


def bootstrap(per_photo: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Means (draws, rows) of scores (rows, N) over photos drawn with replacement, the same draws for every row."""
    photos = per_photo.shape[1]
    generator = np.random.default_rng(seed)
    return np.stack([per_photo[:, generator.integers(photos, size=photos)].mean(axis=1) for _ in range(draws)])


def interval(means: np.ndarray) -> tuple[float, float]:
    """The percentile interval of bootstrapped means."""
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired_differences(scores: np.ndarray, means: np.ndarray) -> list[Difference]:
    """Differences of every pair of rows, from their scores (rows,) and bootstrapped means (draws, rows)."""
    return [
        Difference(row, than, float(scores[row] - scores[than]), *interval(means[:, row] - means[:, than]))
        for row in range(len(scores))
        for than in range(len(scores))
        if row != than
    ]


def pareto(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Numbers of the points on the Pareto front, cheapest first: no other point costs as little and scores more."""
    front: list[int] = []
    for number in sorted(range(len(costs)), key=lambda number: (costs[number], -scores[number])):
        if not front or scores[number] > scores[front[-1]]:
            front.append(number)
    return front
