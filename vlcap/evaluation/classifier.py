"""Evaluation of a classifier on labeled photos: top-1 and top-5 accuracy per budget, and what was taken for what.

    vlcap evaluate --classifier RUN/encoder --data DIR --split val --out RESULTS

An encoder with two classified streams (LookupViT, section 3.4) answers with the average of both heads, as the trainer
evaluates it; each stream's own head is a row beside it.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState

from .. import processes
from ..bench.machine import versions
from ..data.labeled import Labeled
from ..files.results import check_folder
from ..files.writing import replacing
from ..model.encoder import Encoder
from ..model.folder import ModelFolderError

TOP = 5
ALL = "all"  # heads together


class Answer(NamedTuple):
    """The likeliest classes of a photo by each head at each budget, the likeliest first: {(budget, head): numbers}."""

    row: int
    target: int
    top: dict[tuple[int, str], list[int]]


def load_classifier(folder: str | Path) -> Encoder:
    """A trained classifier: RUN/encoder, or the run's folder.

    Raises:
        ModelFolderError: There is none, or it has no heads.
    """
    folder = Path(folder)
    inside = folder / "encoder"
    encoder = Encoder.load(inside if inside.is_dir() and not (folder / "config.json").exists() else folder)
    if not encoder.config.classes:
        raise ModelFolderError(
            f"{folder}: this encoder has no classification heads: name RUN/encoder of vlcap train classifier"
        )
    return encoder.freeze()


def check_budgets(encoder: Encoder, budgets: Sequence[int] | None) -> list[int]:
    """The budgets to evaluate at: those that it was trained for, unless others are named.

    Raises:
        EncoderError: It cannot serve one of them.
    """
    if not budgets:
        return list(encoder.config.budgets or [encoder.budget])
    encoder.check_budgets(budgets)
    return list(dict.fromkeys(budgets))


def classify(encoder: Encoder, labeled: Labeled, budgets: Sequence[int], batch_size: int = 32) -> Iterator[Answer]:
    """The answers for this process's share of the photos, in their order.

    Args:
        encoder: The classifier.
        labeled: The photos, or videos for an encoder of clips; their class numbers are those of the heads.
        budgets: Sides of the compressed grid.
        batch_size: Photos per batch.

    Raises:
        ImageError: A photo can't be read. It is not skipped: the accuracy would be that of another set.
    """
    transform, mine = encoder.pixels.eval_transform(), processes.share(len(labeled))
    targets = labeled.targets.tolist()
    for start in range(0, len(mine), batch_size):
        rows = mine[start : start + batch_size]
        if encoder.frames:
            clips = (labeled.clip(row, encoder.frames) for row in rows)
            pixels = torch.stack([torch.stack([transform(frame) for frame in clip]) for clip in clips])
        else:
            pixels = torch.stack([transform(labeled.load(row)) for row in rows])
        found: dict[tuple[int, str], list[list[int]]] = {}
        with torch.inference_mode():
            seen = encoder.see(pixels)
            for budget in budgets:
                for head, logits in encoder.classify(seen, budget).items():
                    found[budget, head] = likeliest(logits.float().cpu())
        for place, row in enumerate(rows):
            yield Answer(row, targets[row], {key: top[place] for key, top in found.items()})


def likeliest(logits: torch.Tensor) -> list[list[int]]:
    """The five likeliest classes of each row of logits (B, C), the likeliest first.

    `argmax` decides the first, as in the trainer: `topk` may order equal logits otherwise.
    """
    first = logits.argmax(dim=1).tolist()
    order = logits.topk(min(TOP, logits.shape[1]), dim=1).indices.tolist()
    return [[best, *(each for each in top if each != best)][:TOP] for best, top in zip(first, order, strict=True)]


def evaluate_classifier(
    encoder: Encoder,
    labeled: Labeled,
    name: str,
    data: str,
    split: str,
    budgets: Sequence[int] | None = None,
    out: Path | None = None,
    track: Callable[[Iterable[Answer]], Iterable[Answer]] = iter,
) -> dict[str, Any]:
    """Classifies a split at each budget.

    Args:
        encoder: The classifier.
        labeled: The split; its class numbers are those of the heads.
        name: Name of the classifier, for the report.
        data: Name of the data, for the report.
        split: Name of the split, for the report.
        budgets: Sides of the compressed grid; None for those it was trained for.
        out: Folder for metrics.json, predictions.json and a confusion-BUDGET.csv per budget.
        track: Progress display: wraps the answers while they are found.

    Returns:
        The content of metrics.json: accuracies from 0 to 1 as `top1@BUDGET`, with the stream's name for a single head;
        N; what they depend on. Empty in all but the first of several processes.

    Raises:
        EncoderError: The encoder cannot serve a budget.
        OutputError: `out` can't be written to. Raised before the first photo is classified.
        ImageError: A photo can't be read.
    """
    sides = check_budgets(encoder, budgets)
    first = processes.connect()
    if out and first:
        check_folder(out)
    encoder.to(PartialState().device)
    answers: list[Answer] = processes.join(list(track(classify(encoder, labeled, sides))))
    if not first:
        return {}
    classes = encoder.config.classes
    report: dict[str, Any] = {
        **accuracies(answers, len(classes)),
        "N": len(answers),
        "data": data,
        "split": split,
        "classifier": name,
        "encoder": encoder.config.architecture,
        "classes": len(classes),
        "budgets": sides,
        "tokens": [encoder.token_count(side) for side in sides],
        "versions": versions(["vlcap", "torch", "timm"]),
    }
    if out:
        _write(out, answers, classes, sides, report)
    return report


def written(budgets: Sequence[int]) -> list[str]:
    """Names of the files of a report at these budgets."""
    return ["metrics.json", "predictions.json", *(f"confusion-{side}.csv" for side in budgets)]


def accuracies(answers: Sequence[Answer], classes: int) -> dict[str, float]:
    """Share of photos whose class is the likeliest (top1) or among the five likeliest (top5, of more than five)."""
    found = {}
    for key in answers[0].top:
        budget, head = key
        stream = "" if head == ALL else f" {head}"
        found[f"top1@{budget}{stream}"] = _share(each.target == each.top[key][0] for each in answers)
        if classes > TOP:
            found[f"top{TOP}@{budget}{stream}"] = _share(each.target in each.top[key] for each in answers)
    return found


def _share(hits: Iterable[bool]) -> float:
    each = list(hits)
    return sum(each) / len(each)


def confusion(answers: Sequence[Answer], classes: int, budget: int) -> list[list[int]]:
    """Number of photos of each class (row) that were taken for each class (column)."""
    table = [[0] * classes for _ in range(classes)]
    for each in answers:
        table[each.target][each.top[budget, ALL][0]] += 1
    return table


def _write(out: Path, answers: Sequence[Answer], classes: Sequence[str], sides: Sequence[int], report: dict) -> None:
    for side in sides:
        with replacing(out / f"confusion-{side}.csv") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["label", *classes])
            table.writerows(
                [name, *row] for name, row in zip(classes, confusion(answers, len(classes), side), strict=True)
            )
    predictions = [
        {
            "row": each.row,
            "label": classes[each.target],
            "predicted": {str(side): [classes[n] for n in each.top[side, ALL]] for side in sides},
        }
        for each in answers
    ]
    for name, value in (("predictions.json", predictions), ("metrics.json", report)):
        with replacing(out / name) as file:
            file.write(json.dumps(value, indent=2) + "\n")
