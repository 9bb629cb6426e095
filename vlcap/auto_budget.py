"""`--budget auto`: a photo starts at the smallest budget, and goes to the next larger one while its caption is unsure.

A caption is unsure if its score, the mean log-probability of its pieces, is below a threshold. `fit` finds the
threshold on a validation split. budget_auto.json in the captioner folder keeps it:

    vlcap auto-budget --model RUN/captioner --data DIR --split val
    vlcap caption photos/ --model RUN/captioner --budget auto
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .batches import work_on
from .captioner import Caption, Captioner
from .errors import CaptionerError
from .files.json_file import load_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .engines.interface import Engine

FILE = "budget_auto.json"
CANDIDATES = 101  # thresholds tried: quantiles of the scores


@dataclass(frozen=True)
class AutoBudget:
    """The rule.

    Attributes:
        budgets: Sides of the compressed grid, the smallest first.
        threshold: A caption with a lower score is read again at the next budget.
        fitted: What the threshold was fitted on, and with what result.
    """

    budgets: tuple[int, ...]
    threshold: float
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_rule(folder: Path) -> AutoBudget:
    """The rule in a captioner folder, which may be a stranger's.

    Raises:
        CaptionerError: There is none, or it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise CaptionerError(f"{folder} has no {FILE}, which --budget auto needs: vlcap auto-budget writes one")
    values = load_json(path, max_bytes=2**20, error=CaptionerError)
    budgets = values.get("budgets") if isinstance(values, dict) else None
    sides = budgets if isinstance(budgets, list) else []
    whole = bool(sides) and all(type(side) is int and 1 <= side <= 1000 for side in sides)
    if not whole or sorted(set(sides)) != sides:
        raise CaptionerError(f"{path}: budgets must be whole numbers, the smallest first")
    threshold = values.get("threshold")
    if type(threshold) not in (int, float) or not math.isfinite(threshold):
        raise CaptionerError(f"{path}: threshold must be a number")
    fitted = values.get("fitted", {})
    if not isinstance(fitted, dict):
        raise CaptionerError(f"{path}: fitted must be an object")
    return AutoBudget(tuple(sides), float(threshold), fitted)


def caption_batches(
    captioner: Captioner, batches: Iterable[NDArray], rule: AutoBudget, count: int = 1, **generation: Any
) -> Iterator[list[Caption]]:
    """Captions of batches of uint8 pixels, (B, 3, S, S) each, by the rule. Arguments as `Captioner.caption_batches`.

    The milliseconds of a caption are those of all its readings together.

    Raises:
        EncoderError, CaptionerError: A budget of the rule does not fit the captioner.
    """

    def work(engine: Engine, pixels: NDArray) -> list[Caption]:
        lane = Captioner(engine)
        captions: list[Caption] = []
        unsure = np.arange(len(pixels))  # places in the batch
        for budget in rule.budgets:
            [found] = lane.caption_batches([pixels[unsure]], budget, count, **generation)
            if not captions:
                captions = found
            else:
                for place, caption in zip(unsure, found, strict=True):
                    captions[place] = replace(caption, ms=caption.ms + captions[place].ms)
            unsure = np.array([place for place in unsure if captions[place].score < rule.threshold], dtype=int)
            if not len(unsure):
                break
        return captions

    return work_on(captioner.engine, batches, work)


@dataclass(frozen=True)
class Point:
    """What a threshold gives on the split that it is fitted on.

    Attributes:
        threshold: The threshold.
        CIDEr: Mean over the photos, raw.
        gflops: GFLOPs for a photo, mean, with all its readings.
        shares: Share of the photos that end at each budget.
    """

    threshold: float
    CIDEr: float
    gflops: float
    shares: tuple[float, ...]


def curve(scores: NDArray, quality: NDArray, gflops: Sequence[float]) -> list[Point]:
    """The result of each threshold, from the lowest score of a caption to the highest.

    Args:
        scores: Scores of the captions, (budgets, N), the smallest budget first.
        quality: CIDEr of each caption, raw, (budgets, N).
        gflops: GFLOPs of one reading at each budget.
    """
    rows, photos = scores.shape
    thresholds = np.unique(np.quantile(scores[:-1], np.linspace(0, 1, CANDIDATES))) if rows > 1 else scores.min(axis=1)
    points = []
    for threshold in thresholds.tolist():
        # The first budget whose caption is sure enough; the last one takes the rest.
        sure = scores >= threshold
        sure[-1] = True
        ends = sure.argmax(axis=0)  # (N,)
        cost = np.cumsum(gflops)[ends].mean()
        shares = np.bincount(ends, minlength=rows) / photos
        points.append(Point(threshold, quality[ends, range(photos)].mean().item(), cost.item(), (*shares.tolist(),)))
    return points


def fit(points: Sequence[Point], fixed: Sequence[float]) -> Point:
    """The cheapest threshold that is at least as good as every fixed budget; the best one if none is.

    Args:
        points: Result of `curve`.
        fixed: CIDEr at each budget.
    """
    good = [point for point in points if point.CIDEr >= max(fixed)]
    return min(good, key=lambda point: point.gflops) if good else max(points, key=lambda point: point.CIDEr)
