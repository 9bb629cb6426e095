"""A captioner against a split: predictions as a COCO result file, scores beside them with all that they depend on.

    vlcap evaluate --data DIR --split test --out RESULTS
"""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .captioner import Caption, Captioner
from .captions import CaptionSet, write_coco_results
from .metrics import Scores


def predict(
        captioner: Captioner, captions: CaptionSet, budget: int | None = None, batch_size: int = 32, **generation: Any,
) -> Iterator[tuple[int, Caption]]:
    """image_id and caption of every photo of a split, in its order.

    Args:
        captioner: What captions.
        captions: Its references are not looked at.
        budget: Side of the compressed grid; None for the captioner's own.
        batch_size: Photos at a time.
        generation: num_beams, max_new_tokens, ...: Hugging Face's names, over the captioner's own.

    Raises:
        ImageError: A photo can't be read: a score of fewer photos would not be the split's.
    """
    for start in range(0, len(captions), batch_size):
        rows = range(start, min(start + batch_size, len(captions)))
        pixels = captioner.preprocess([captions.image(i) for i in rows])
        found = captioner.caption_pixels(pixels, budget=budget, **generation)
        yield from zip((captions.image_ids[i] for i in rows), found, strict=True)


def write_results(
        out: Path, captioner: Captioner, captions: CaptionSet, predictions: dict[int, Caption], scores: Scores,
        **generation: Any,
) -> dict[str, Any]:
    """Writes `out`/predictions.json and `out`/metrics.json; returns what the latter holds."""
    report = {
        **scores.to_dict(),
        "data": captions.name,
        "split": captions.split,
        "model": captioner.name,
        "budget": next(iter(predictions.values())).budget,
        "generation": captioner.generation(**generation),
        "distinct": len({caption.text for caption in predictions.values()}) / len(predictions),
        "ms_per_photo": sum(caption.ms for caption in predictions.values()) / len(predictions),
        "versions": {name: version(name) for name in ("vlcap", "torch", "transformers", "timm", "pycocoevalcap")},
    }
    out.mkdir(parents=True, exist_ok=True)
    write_coco_results(out / "predictions.json", {i: caption.text for i, caption in predictions.items()})
    (out / "metrics.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report
