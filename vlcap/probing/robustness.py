"""What corruptions of a photo do to a frozen encoder: accuracy, mean corruption error, and deviation of its features.

    vlcap probe --encoder RUN/encoder --data DIR --corruptions --out RESULTS

LookupViT's Tables 2 and 6 and Figure 4, on any labeled photos.

- A photo is brought to a size (224 px, as ImageNet-C's), corrupted, and then preprocessed as each encoder wants it.
  Severity 0 is the same photo without corruption. So all accuracies are of photos of this size.
- Accuracy is that of the encoder's own heads, if they know all classes of the data. Otherwise it is that of the ridge
  probes on clean photos with the most shots (few_shot.py), averaged over the draws.
- Mean corruption error (arXiv 1903.12261, section 4): CE of a corruption is the model's error, summed over severities,
  divided by the reference model's. mCE is the mean of CE over the corruptions, x 100.
- Normalized feature deviation (LookupViT, appendix A.1): |F(X) - F(X_c)| / |F(X)| for each photo X, L2 norms. The paper
  does not say which features F are; here they are the pooled ones that are probed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..data.corruptions import CORRUPTIONS, SEVERITIES, SIZE, bring_to_size, check_corruptions, corrupt
from ..data.labeled import Labeled
from ..tracking import Track, no_track
from .ridge import Linear
from .subject import ProbeError, Subject, in_batches

CLEAN = "clean"
# Error of AlexNet on ImageNet-C, the mean over five severities: the reference of arXiv 1903.12261, Table 1, as its
# authors publish it (github.com/hendrycks/robustness). It is for ImageNet-1k's 1,000 classes.
ALEXNET = dict(
    zip(
        CORRUPTIONS,
        (
            *(0.886428, 0.894468, 0.922640),
            *(0.819880, 0.826268, 0.785948, 0.798360),
            *(0.866816, 0.826572, 0.819324, 0.564592),
            *(0.853204, 0.646056, 0.717840, 0.606500),
        ),
        strict=True,
    )
)
BINS = 60  # of the density of deviations

Key = tuple[int, int]  # number of the subject, budget


@dataclass(frozen=True)
class CorruptionRow:
    """An encoder at one budget under one corruption: accuracy and mean deviation of the features. Clean: severity 0."""

    encoder: str
    budget: int
    tokens: int
    corruption: str
    severity: int
    accuracy: float
    deviation: float


@dataclass(frozen=True)
class Robustness:
    """An encoder at one budget under all corruptions.

    Attributes:
        encoder: Its name.
        budget: Side of the compressed grid.
        tokens: Number of tokens.
        classifier: Whose answers are judged: "heads" or "ridge".
        clean: Accuracy at severity 0.
        accuracy: Mean accuracy over the corruptions at each severity; over all of them under "mean".
        mce: Mean corruption error, x 100; None where the reference makes no errors.
        deviation: Mean deviation over the corruptions at each severity.
        density: Density of the deviations of photo and corruption at the highest severity, per bin of `edges`.
        edges: Borders of the bins.
    """

    encoder: str
    budget: int
    tokens: int
    classifier: str
    clean: float
    accuracy: dict[str, float]
    mce: float | None
    deviation: dict[str, float]
    density: list[float] = field(default_factory=list)
    edges: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Corrupted:
    """All results of `corrupted`: the summary, every row, and what mean corruption errors refer to."""

    summary: list[Robustness]
    rows: list[CorruptionRow]
    reference: str


def corrupted(
    subjects: Sequence[Subject],
    test: Labeled,
    probes: Mapping[Key, Sequence[Linear]],
    names: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    size: int = SIZE,
    reference: str | None = None,
    seed: int = 0,
    track: Track = no_track,
) -> Corrupted:
    """Probes encoders with corrupted photos. A photo has the same corruption for every encoder.

    Args:
        subjects: Encoders with their budgets.
        test: Split that is corrupted.
        probes: Ridge probes of each subject and budget whose heads don't know the classes.
        names: Corruptions.
        severities: Severities, 1 to 5.
        size: Side of the photos in pixels, at which they are corrupted.
        reference: Name of the encoder whose errors are those of reference, at its largest budget. None: AlexNet's
            published ones, where the classes may be ImageNet-1k's and all corruptions are run; otherwise the first.
        seed: Random seed of the corruptions.
        track: Progress display.

    Raises:
        CorruptionError: A corruption or severity is unknown, or the package is missing.
        ProbeError: The reference is none of the subjects.
        ImageError: A photo can't be read.
    """
    check_corruptions(tuple(names), tuple(severities), size)
    check_reference(reference, [each.name for each in subjects])
    hits, deviations = _measure(subjects, test, probes, names, severities, size, seed, track)
    conditions = [(CLEAN, 0), *((name, severity) for name in names for severity in severities)]

    def answers(subject: Subject, number: int, budget: int) -> int:
        """How many there are: one for each photo of the heads, or of each of the probes."""
        return len(test) * (len(probes[number, budget]) if subject.numbers is None else 1)

    rows = [
        CorruptionRow(
            subject.name,
            budget,
            subject.encoder.token_count(budget),
            name,
            severity,
            int(hits[number, budget, name, severity].sum()) / answers(subject, number, budget),
            float(np.mean(deviations[number, budget, name, severity])),
        )
        for number, subject in enumerate(subjects)
        for budget in subject.budgets
        for name, severity in conditions
    ]
    errors, called = reference_errors(subjects, rows, len(test.classes), names, severities, reference)
    summary = [
        _summarize(subject, number, budget, rows, deviations, names, severities, errors)
        for number, subject in enumerate(subjects)
        for budget in subject.budgets
    ]
    return Corrupted(summary, rows, called)


def check_names(names: Sequence[str]) -> None:
    """Whether the encoders have names of their own.

    Raises:
        ProbeError: Two have the same.
    """
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ProbeError(f"two encoders are called {twice[0]}: give each a name, as in --encoder first=FOLDER")


def check_reference(reference: str | None, names: Sequence[str]) -> None:
    """Whether the reference is one of the encoders.

    Raises:
        ProbeError: It is not.
    """
    if reference is not None and reference not in names:
        raise ProbeError(f"--reference {reference:.100}: none of the encoders is called so: {', '.join(names)}")


@torch.inference_mode()
def _measure(
    subjects: Sequence[Subject],
    test: Labeled,
    probes: Mapping[Key, Sequence[Linear]],
    names: Sequence[str],
    severities: Sequence[int],
    size: int,
    seed: int,
    track: Track,
) -> tuple[dict, dict]:
    """Number of right answers and deviation of each photo, by (subject, budget, corruption, severity)."""
    hits: dict[tuple[int, int, str, int], list[np.ndarray]] = {}
    deviations: dict[tuple[int, int, str, int], list[np.ndarray]] = {}
    conditions = [(CLEAN, 0), *((name, severity) for name in names for severity in severities)]
    batches = [(rows, each) for rows in in_batches(range(len(test))) for each in conditions]
    photos: list = []
    clean: dict[Key, np.ndarray] = {}
    for rows, (name, severity) in track(batches, len(batches), "corrupting"):
        if severity == 0:
            photos = [bring_to_size(test.load(row), size) for row in rows]
        labels = test.targets[rows].numpy()
        changed = [corrupt(photo, name, severity, seed, row) for photo, row in zip(photos, rows, strict=True)]
        for number, subject in enumerate(subjects):
            seen = subject.see(changed)
            for budget in subject.budgets:
                features = subject.features(seen, budget)
                if severity == 0:
                    clean[number, budget] = features
                key = (number, budget, name, severity)
                right = _right(subject, seen, budget, features, probes.get((number, budget), ()), labels)
                hits.setdefault(key, []).append(right)
                deviations.setdefault(key, []).append(deviation(clean[number, budget], features))
    return (
        {key: np.concatenate(each) for key, each in hits.items()},
        {key: np.concatenate(each) for key, each in deviations.items()},
    )


def _right(
    subject: Subject, seen: Any, budget: int, features: np.ndarray, probes: Sequence[Linear], labels: np.ndarray
) -> np.ndarray:
    """For each photo, how many of those who judge it find its class: the heads, or the probes of the draws (B,)."""
    if subject.numbers is not None:
        return (subject.answers(seen, budget) == np.array(subject.numbers)[labels]).astype(int)
    return np.sum([probe.classes(features) == labels for probe in probes], axis=0)


def deviation(clean: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Normalized feature deviation of each photo: |F(X) - F(X_c)| / |F(X)|, (B, D) twice -> (B,)."""
    exact = clean.astype(np.float64)
    length = np.linalg.norm(exact, axis=1).clip(min=np.finfo(np.float64).tiny)  # of features that are all zero, too
    return np.linalg.norm(exact - features, axis=1) / length


def reference_errors(
    subjects: Sequence[Subject],
    rows: Sequence[CorruptionRow],
    classes: int,
    names: Sequence[str],
    severities: Sequence[int],
    reference: str | None,
) -> tuple[dict[str, float], str]:
    """Mean error over severities of the reference model for each corruption, and what it is called."""
    if reference is None and classes == 1000 and {*severities} == {*SEVERITIES} and {*names} == {*CORRUPTIONS}:
        return ALEXNET, "AlexNet, as published for ImageNet-C"
    chosen = next((each for each in subjects if each.name == reference), subjects[0])
    budget = max(chosen.budgets)
    mine = [row for row in rows if (row.encoder, row.budget) == (chosen.name, budget)]
    return {name: mean_error(mine, name) for name in names}, f"{chosen.name} at budget {budget}"


def mean_error(rows: Sequence[CorruptionRow], name: str) -> float:
    """Error under a corruption, the mean over its severities."""
    found = [1 - row.accuracy for row in rows if row.corruption == name]
    return sum(found) / len(found)


def mean_corruption_error(errors: Mapping[str, float], reference: Mapping[str, float]) -> float | None:
    """mCE x 100 (arXiv 1903.12261, section 4); None if the reference makes no errors under one of the corruptions.

    Args:
        errors: The model's error for each corruption: sum or mean over severities.
        reference: The reference model's, the same of the two.
    """
    if not all(reference[name] for name in errors):
        return None
    return 100 * sum(error / reference[name] for name, error in errors.items()) / len(errors)


def _summarize(
    subject: Subject,
    number: int,
    budget: int,
    rows: Sequence[CorruptionRow],
    deviations: Mapping[tuple[int, int, str, int], np.ndarray],
    names: Sequence[str],
    severities: Sequence[int],
    errors: Mapping[str, float],
) -> Robustness:
    mine = [row for row in rows if (row.encoder, row.budget) == (subject.name, budget)]
    [clean] = [row for row in mine if row.severity == 0]
    changed = [row for row in mine if row.severity]
    each = {severity: [row for row in changed if row.severity == severity] for severity in severities}
    worst = np.concatenate([deviations[number, budget, name, max(severities)] for name in names])
    # Above a deviation of 2 there is next to nothing; what there is counts in the last bin.
    density, edges = np.histogram(worst.clip(max=2.0), bins=BINS, range=(0.0, 2.0), density=True)
    return Robustness(
        encoder=subject.name,
        budget=budget,
        tokens=clean.tokens,
        classifier="ridge" if subject.numbers is None else "heads",
        clean=clean.accuracy,
        accuracy={str(severity): float(np.mean([row.accuracy for row in own])) for severity, own in each.items()}
        | {"mean": float(np.mean([row.accuracy for row in changed]))},
        mce=mean_corruption_error({name: mean_error(mine, name) for name in names}, errors),
        deviation={str(severity): float(np.mean([row.deviation for row in own])) for severity, own in each.items()},
        density=density.tolist(),
        edges=edges.tolist(),
    )
