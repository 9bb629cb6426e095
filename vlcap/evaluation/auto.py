"""Fits the threshold of `--budget auto` (vlcap/auto_budget.py) on a split, from captions at every budget."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..auto_budget import AutoBudget, Point, curve, fit
from ..captioner import Captioner, CaptionerError
from ..data.captions import CaptionSet
from ..tracking import Track, no_track
from .costs import count_decoder_gflops
from .evaluate import predict
from .metrics import check_references, score


@dataclass(frozen=True)
class Fitted:
    """A rule, with what it was chosen from.

    Attributes:
        rule: The rule.
        points: What other thresholds give.
        fixed: (CIDEr, GFLOPs) of each budget alone.
    """

    rule: AutoBudget
    points: list[Point]
    fixed: list[tuple[float, float]]


def fit_rule(
    captioner: Captioner,
    captions: CaptionSet,
    budgets: Sequence[int] | None = None,
    track: Track = no_track,
    **generation: Any,
) -> Fitted:
    """Captions a split at every budget, and chooses the cheapest threshold that is as good as any fixed budget.

    GFLOPs are those of encoder and decoder for one photo, the decoder's at the mean length of all captions.

    Args:
        captioner: The captioner, run by PyTorch: its decoder is counted.
        captions: The split, one that the captioner is not tested on.
        budgets: Budgets to choose from; None for those it was trained for.
        track: Progress display.
        generation: Generation settings over the captioner's own.

    Raises:
        CaptionerError: There is only one budget.
        JavaError: No Java.
        MetricsError: The split can't be scored. Raised before the first photo is captioned.
        ImageError: A photo can't be read.
    """
    sides = sorted(set(budgets or captioner.budgets))
    if len(sides) < 2:
        raise CaptionerError(f"{captioner.name} has one budget, {sides[0]}: there is nothing to choose from")
    references = captions.references()
    check_references(references, f"{captions.name}, {captions.split}")
    found = [
        dict(track(predict(captioner, captions, budget=side, **generation), len(captions), f"budget {side}"))
        for side in sides
    ]
    scored = [score({i: each.text for i, each in row.items()}, references, metrics=["CIDEr"]) for row in found]
    quality = np.array([[each.per_image["CIDEr"][i] for i in captions.image_ids] for each in scored])  # (budgets, N)
    scores = np.array([[row[i].score for i in captions.image_ids] for row in found])  # (budgets, N)
    length = round(statistics.mean(len(caption.logprobs) for row in found for caption in row.values()))
    gflops = [
        captioner.engine.gflops(side)
        + count_decoder_gflops(captioner, captioner.model.encoder.token_count(side), length, **generation)
        for side in sides
    ]
    points, ciders = curve(scores, quality, gflops), quality.mean(axis=1).tolist()
    best = fit(points, ciders)
    facts = {
        "data": captions.name,
        "split": captions.split,
        "N": len(captions),
        "CIDEr": best.CIDEr,
        "gflops": best.gflops,
        "fixed": {str(side): [cider, cost] for side, cider, cost in zip(sides, ciders, gflops, strict=True)},
    }
    return Fitted(AutoBudget(tuple(sides), best.threshold, facts), points, list(zip(ciders, gflops, strict=True)))
