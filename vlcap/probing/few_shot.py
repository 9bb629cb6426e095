"""Few-shot transfer of a frozen encoder: ridge regression on its pooled tokens, from a few photos of each class.

    vlcap probe --encoder RUN/encoder --data DIR --out RESULTS

LookupViT's Table 9, for every budget. The paper does not describe its classifier; this is ViT's own few-shot evaluation
(arXiv 2010.11929, section 4.1).

- Each draw takes photos of the train split at random, as many of each class. The draws with fewer shots are the first
  photos of those with more. All encoders and budgets share the draws, so their differences are paired.
- The regularization is chosen per encoder, budget and number of shots: of `STRENGTHS`, in units of the features'
  spread, the one with the highest accuracy over all draws on held-out photos of the train split; the strongest of
  several that are equal.
  The held-out photos belong to no draw. So the choice costs labels beyond the shots, but none of the tested split.
- The interval is a bootstrap over draws. It says how much depends on which photos were drawn, and nothing about the
  choice of tested photos.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..data.labeled import Labeled
from ..evaluation.bootstrap import bootstrap, interval
from ..tracking import Track, no_track
from .ridge import Linear, ridge, spread
from .subject import ProbeError, Subject, in_batches

SHOTS = (1, 5, 10, 25)
DRAWS = 5
HELD_OUT = 20  # photos of each class, at most
STRENGTHS = tuple(float(10 ** (step / 2)) for step in range(-6, 7))  # 0.001 to 1000, in units of `spread`
RESAMPLES = 2000  # of the bootstrap
Features = dict[tuple[int, int], np.ndarray]  # (number of the subject, budget) -> features (n, D)


@dataclass(frozen=True)
class Draws:
    """Rows of the train split.

    Attributes:
        held_out: Those that choose the regularization.
        rows: Those of each draw (draws, classes, most shots).
    """

    held_out: np.ndarray
    rows: np.ndarray

    def of(self, draw: int, shots: int) -> np.ndarray:
        """Rows of a draw with so many shots of each class."""
        return self.rows[draw, :, :shots].ravel()

    @property
    def used(self) -> list[int]:
        """All rows that have to be encoded, in order."""
        return sorted({*self.held_out.tolist(), *self.rows.ravel().tolist()})


@dataclass(frozen=True)
class FewShotRow:
    """Accuracy of an encoder at one budget with so many shots. The interval is that of the mean over draws.

    `accuracies` are those of the draws; `loss` is how much lower the mean is than at the encoder's largest budget, with
    its paired interval; None at that budget itself. `strength` is in units of the features' spread.
    """

    encoder: str
    budget: int
    tokens: int
    shots: int
    accuracy: float
    low: float
    high: float
    accuracies: list[float]
    strength: float
    loss: float | None = None
    loss_low: float | None = None
    loss_high: float | None = None


def draw(targets: Sequence[int], classes: Sequence[str], shots: int, draws: int, seed: int) -> Draws:
    """Draws photos of each class.

    Args:
        targets: Class number of each photo of the train split.
        classes: Names of the classes.
        shots: Most photos of a class in a draw.
        draws: Number of draws.
        seed: Random seed.

    Raises:
        ProbeError: A class has too few photos.
    """
    held_out, rows = [], []
    alike: list[str] = []
    labels = np.asarray(targets)
    for number, name in enumerate(classes):
        own = np.flatnonzero(labels == number)
        if len(own) <= shots:
            raise ProbeError(
                f"class {name!r:.60} has {len(own)} photos in the train split: {shots} shots need one more at least, "
                "to choose the regularization by: use smaller --shots"
            )
        own = np.random.default_rng([seed, number]).permutation(own)
        kept = max(1, min(HELD_OUT, (len(own) - shots) // 2))  # half of what is left, so that draws differ
        if len(own) - kept == shots:
            alike.append(name)
        held_out.append(own[:kept])
        pool = own[kept:]
        rows.append(
            [np.random.default_rng([seed, number, 1 + each]).permutation(pool)[:shots] for each in range(draws)]
        )
    if alike:
        warnings.warn(
            f"{len(alike)} of {len(classes)} classes have only {shots + 1} photos, such as {alike[0]!r:.60}: all draws "
            f"of {shots} shots have the same photos of them, so intervals are too narrow: use smaller --shots",
            stacklevel=2,
        )
    return Draws(np.concatenate(held_out), np.array(rows).transpose(1, 0, 2))


@torch.inference_mode()
def encode(subjects: Sequence[Subject], labeled: Labeled, rows: Sequence[int], what: str, track: Track) -> Features:
    """Pooled features of some photos, for every subject and budget.

    Raises:
        ImageError: A photo can't be read.
    """
    found: dict[tuple[int, int], list[np.ndarray]] = {}
    batches: Iterable[list[int]] = in_batches(rows)
    for batch in track(batches, -(-len(rows) // 32), what):
        photos = [labeled.load(row) for row in batch]
        for number, subject in enumerate(subjects):
            seen = subject.see(photos)
            for budget in subject.budgets:
                found.setdefault((number, budget), []).append(subject.features(seen, budget))
    return {key: np.concatenate(each) for key, each in found.items()}


@dataclass(frozen=True)
class FewShot:
    """All results of `few_shot`.

    Attributes:
        rows: The table.
        probes: The classifiers of the draws with the most shots, by (number of the subject, budget).
        test: Features of the tested split, by the same.
    """

    rows: list[FewShotRow]
    probes: dict[tuple[int, int], list[Linear]]
    test: Features


def few_shot(
    subjects: Sequence[Subject],
    train: Labeled,
    test: Labeled,
    shots: Sequence[int] = SHOTS,
    draws: int = DRAWS,
    seed: int = 0,
    track: Track = no_track,
) -> FewShot:
    """Probes encoders with each number of shots.

    Args:
        subjects: Encoders with their budgets.
        train: Split that shots and held-out photos are drawn from.
        test: Split that is tested, with the same class numbers.
        shots: Numbers of photos of each class.
        draws: Number of draws.
        seed: Random seed of the draws.
        track: Progress display.

    Raises:
        ProbeError: A class has too few photos. Raised before the first photo is encoded.
        ImageError: A photo can't be read.
    """
    chosen = draw(train.targets.tolist(), train.classes, max(shots), draws, seed)
    used = chosen.used
    labels = train.targets.numpy()
    known = encode(subjects, train, used, "encoding the train split", track)
    tested = encode(subjects, test, range(len(test)), "encoding the tested split", track)
    place = np.full(len(labels), -1)
    place[used] = np.arange(len(used))
    rows: list[FewShotRow] = []
    probes: dict[tuple[int, int], list[Linear]] = {}
    for key, features in known.items():
        subject, budget = subjects[key[0]], key[1]
        held = features[place[chosen.held_out]], labels[chosen.held_out]
        for count in sorted(set(shots)):
            sets = [chosen.of(each, count) for each in range(draws)]
            strength, fitted = fit([(features[place[own]], labels[own]) for own in sets], held, len(train.classes))
            found = [accuracy(each, tested[key], test.targets.numpy()) for each in fitted]
            low, high = interval(bootstrap(np.array([found]), RESAMPLES, seed)[:, 0])
            mean = sum(round(each * len(test)) for each in found) / (len(test) * draws)  # exact: of whole photos
            tokens = subject.encoder.token_count(budget)
            rows.append(FewShotRow(subject.name, budget, tokens, count, mean, low, high, found, strength))
            probes[key] = fitted
    return FewShot(with_losses(rows, seed), probes, tested)


def fit(
    sets: Sequence[tuple[np.ndarray, np.ndarray]], held_out: tuple[np.ndarray, np.ndarray], classes: int
) -> tuple[float, list[Linear]]:
    """The best strength for some draws, in units of each one's spread, and the classifiers of the draws with it.

    Args:
        sets: Features (n, D) and class numbers (n,) of each draw.
        held_out: Features and class numbers that choose the strength.
        classes: Number of classes.
    """
    fitted = []
    for features, labels in sets:
        unit = spread(features.astype(np.float64))
        fitted.append(ridge(features, labels, classes, [each * unit for each in STRENGTHS]))
    scores = np.mean([[accuracy(each, *held_out) for each in of_draw] for of_draw in fitted], axis=0)  # (strengths,)
    best = max(range(len(STRENGTHS)), key=lambda number: (scores[number], number))
    return STRENGTHS[best], [of_draw[best] for of_draw in fitted]


def accuracy(classifier: Linear, features: np.ndarray, labels: np.ndarray) -> float:
    """Share of photos that get their class."""
    return float((classifier.classes(features) == labels).mean())


def with_losses(rows: Sequence[FewShotRow], seed: int) -> list[FewShotRow]:
    """The rows, each with what it loses against its encoder's largest budget."""
    found = []
    for row in rows:
        mine = [each for each in rows if (each.encoder, each.shots) == (row.encoder, row.shots)]
        largest = max(mine, key=lambda each: each.budget)
        if row is largest:
            found.append(row)
            continue
        lost = np.array([largest.accuracies]) - np.array([row.accuracies])
        low, high = interval(bootstrap(lost, RESAMPLES, seed)[:, 0])
        found.append(FewShotRow(**{**row.__dict__, "loss": float(lost.mean()), "loss_low": low, "loss_high": high}))
    return found
