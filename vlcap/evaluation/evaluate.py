"""Evaluation of a captioner on a split: a COCO result file, and the scores with all settings they depend on.

vlcap evaluate --data DIR --split test --out RESULTS
torchrun --nproc_per_node 2 --no-python vlcap evaluate ...        # the photos are divided among the processes
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from .. import auto_budget, processes
from ..auto_budget import AutoBudget
from ..bench.machine import versions
from ..captioner import Caption, Captioner
from ..data.captions import CaptionSet, write_coco_results
from ..errors import CaptionerError
from ..files.results import check_folder
from ..files.writing import digest_file, replacing
from ..video import frames_of
from .hugging_face import HuggingFaceCaptioner
from .metrics import DEFAULT, check_metrics, check_references, score

WRITTEN = ("predictions.json", "metrics.json")
Predictions = Iterable[tuple[int, Caption]]


def predict(
    captioner: Captioner | HuggingFaceCaptioner,
    captions: CaptionSet,
    budget: int | AutoBudget | None = None,
    batch_size: int = 32,
    **generation: Any,
) -> Iterator[tuple[int, Caption]]:
    """Captions this process's share of a split: image_id and caption of every photo, in order.

    Args:
        captioner: Captioner to run.
        captions: Split to caption, photos or videos. Its references are not used.
        budget: Side of the compressed grid, or the rule that chooses it; None for the captioner's own.
        batch_size: Number of photos per batch.
        generation: num_beams, max_new_tokens, ...: Hugging Face's names, over the captioner's own.

    Raises:
        ImageError: A photo can't be read. It is not skipped: the score would be that of another set.
    """
    mine = processes.share(len(captions))
    frames = frames_read(captioner, captions)
    step = max(1, batch_size // (frames or 1))
    for start in range(0, len(mine), step):
        rows = mine[start : start + step]
        pixels: Any
        if frames:
            pixels = np.stack([captioner.preprocess(captions.clip(i, frames)) for i in rows])
        else:
            pixels = captioner.preprocess([captions.image(i) for i in rows])
        if isinstance(budget, AutoBudget):
            if isinstance(captioner, HuggingFaceCaptioner):
                raise CaptionerError(f"{captioner.name} has no choice of budget")
            [found] = auto_budget.caption_batches(captioner, [pixels], budget, **generation)
        else:
            found = captioner.caption_pixels(pixels, budget=budget, **generation)
        yield from zip((captions.image_ids[i] for i in rows), found, strict=True)


def frames_read(captioner: Captioner | HuggingFaceCaptioner, captions: CaptionSet) -> int | None:
    """Frames that are read of each video of a split; None if it has none, and for third-party captioners.

    Those see the frame in the middle of a video.
    """
    return frames_of(captioner) if captions.has_videos and isinstance(captioner, Captioner) else None


def evaluate(
    captioner: Captioner | HuggingFaceCaptioner,
    captions: CaptionSet,
    budget: int | AutoBudget | None = None,
    metrics: Sequence[str] = DEFAULT,
    out: Path | None = None,
    track: Callable[[Predictions], Predictions] = iter,
    **generation: Any,
) -> dict[str, Any]:
    """Captions a split and scores the captions against its references.

    Args:
        captioner: Captioner to evaluate.
        captions: Split to caption and score on.
        budget: Side of the compressed grid, or the rule that chooses it; None for the captioner's own.
        metrics: Names of metrics, from `vlcap.evaluation.metrics.METRICS`.
        out: Folder for predictions.json, written before scoring, and metrics.json.
        track: Progress display: wraps the predictions while they are made.
        generation: Generation settings, as for `predict`.

    Returns:
        The content of metrics.json: raw scores by pycocoevalcap's names, N, and the settings they depend on. Empty in
        all but the first of several processes.

    Raises:
        JavaError: No Java. Raised before the first photo is captioned.
        MetricsError: A metric can't be computed or the split can't be scored. Raised before the first photo is
            captioned.
        OutputError: `out` can't be written to. Raised before the first photo is captioned.
        ImageError: A photo can't be read.
    """
    check_metrics(metrics)
    check_references(captions.references(), f"{captions.name}, {captions.split}")
    first = processes.connect()
    if out and first:
        check_folder(out)
    predictions = dict(processes.join(list(track(predict(captioner, captions, budget=budget, **generation)))))
    if not first:
        return {}
    texts = {image_id: caption.text for image_id, caption in predictions.items()}
    if out:
        write_coco_results(out / "predictions.json", texts)
    report = {
        **score(texts, captions.references(), metrics=metrics).to_dict(),
        "data": captions.name,
        "split": captions.split,
        "model": captioner.name,
        **_engine_facts(captioner),
        **_budget_facts(captioner, budget, list(predictions.values())),
        **({"frames": frames} if (frames := frames_read(captioner, captions)) else {}),
        "generation": captioner.generation(**generation),
        "distinct": len(set(texts.values())) / len(texts),
        "ms_per_photo": sum(caption.ms for caption in predictions.values()) / len(predictions),
        "versions": versions(),
    }
    if out:
        with replacing(out / "metrics.json") as file:
            file.write(json.dumps(report, indent=2) + "\n")
    return report


def _engine_facts(captioner: Captioner | HuggingFaceCaptioner) -> dict[str, Any]:
    """What ran the captioner, whether with 8-bit weights, and the digest of its folder's weights, if it has one."""
    if isinstance(captioner, HuggingFaceCaptioner):
        return {"engine": "pytorch", "int8": False}
    file = captioner.folder / "model.safetensors" if captioner.folder else None
    weights = {"weights_sha256": digest_file(file)} if file and file.is_file() else {}
    return {"engine": captioner.engine.kind, "int8": captioner.engine.int8, **weights}


def _budget_facts(
    captioner: Captioner | HuggingFaceCaptioner, budget: int | AutoBudget | None, found: Sequence[Caption]
) -> dict[str, Any]:
    """The budget, and for the rule that chooses it: the share of photos at each, and the mean GFLOPs of the encoder."""
    if not isinstance(budget, AutoBudget) or isinstance(captioner, HuggingFaceCaptioner):
        return {"budget": captioner.default_budget if budget is None else budget}
    ends = Counter(caption.budget for caption in found)
    costs = dict(zip(budget.budgets, accumulate(map(captioner.engine.gflops, budget.budgets)), strict=True))
    return {
        "budget": "auto",
        "threshold": budget.threshold,
        "budgets": {str(side): ends[side] / len(found) for side in budget.budgets},
        "encoder_gflops": sum(costs[side] * number for side, number in ends.items()) / len(found),
    }
