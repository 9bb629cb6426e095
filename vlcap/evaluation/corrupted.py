"""Captioners x budgets under corruptions of the photos: CIDEr, and what is lost of it.

    vlcap compare --model RUN/captioner --data DIR --corruptions --out RESULTS

The corruptions are ImageNet-C's (vlcap/data/corruptions.py). Photos are brought to one size before they are corrupted,
and severity 0 is the same photo without corruption; so the clean score here is that of photos of this size. CIDEr takes
its word weights from the references, which stay the same: scores under different corruptions are comparable. Intervals
are bootstraps over photos, shared by all rows, as in compare.py; a photo's CIDEr is first averaged over severities.
"""

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table

from ..data.captions import CaptionSet
from ..data.corruptions import CORRUPTIONS, PACKAGE, SEVERITIES, SIZE, bring_to_size, check_corruptions, corrupt
from ..tracking import Track, no_track
from .bootstrap import LEVEL, bootstrap, interval
from .compare import DRAWS, Contender, caption_split
from .metrics import score
from .subjects import subject
from .terminal import terminal_table

WRITTEN = ("corruptions.json", "corruptions.csv")
CLEAN, ALL = "clean", "all"


@dataclass(frozen=True, eq=False)
class CorruptedCaptions(CaptionSet):
    """A split whose photos are corrupted when they are opened; its captions stay as they are."""

    clean: str = ""  # fingerprint of the split without corruption
    corruption: str = CLEAN
    severity: int = 0
    size: int = SIZE
    seed: int = 0

    def image(self, i: int) -> Image.Image:
        photo = bring_to_size(super().image(i), self.size)
        return corrupt(photo, self.corruption, self.severity, self.seed, row=i)

    def fingerprint(self) -> str:
        """SHA-256 of the split, the corruption and the package that makes it, in hex."""
        parts = [self.clean, self.corruption, self.severity, self.size, self.seed, version(PACKAGE)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class CorruptedRow:
    """A captioner at one budget under one corruption; under "all", the mean over corruptions; "clean" is severity 0.

    CIDEr is raw, the mean over severities, with its interval. `lost` is how much lower it is than the clean one's, with
    its paired interval. `severities` has the CIDEr of each severity.
    """

    model: str
    budget: int
    tokens: int
    corruption: str
    CIDEr: float
    low: float
    high: float
    lost: float
    lost_low: float
    lost_high: float
    severities: dict[str, float]


def corrupted_split(captions: CaptionSet, name: str, severity: int, size: int, seed: int) -> CorruptedCaptions:
    """A split under a corruption, or at severity 0 only brought to the size."""
    values = {each.name: getattr(captions, each.name) for each in fields(CaptionSet)}
    return CorruptedCaptions(
        **values, clean=captions.fingerprint(), corruption=name, severity=severity, size=size, seed=seed
    )


def compare_corrupted(
    contenders: Sequence[Contender],
    captions: CaptionSet,
    out: Path,
    names: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    size: int = SIZE,
    seed: int = 0,
    draws: int = DRAWS,
    track: Track = no_track,
    **generation: Any,
) -> list[CorruptedRow]:
    """Captions a split under corruptions with every captioner at every budget.

    Captions are kept in `out`/predictions and reused, as `compare` does.

    Args:
        contenders: Captioners and budgets.
        captions: Split that is captioned.
        out: Folder of the results, whose predictions/ exists.
        names: Corruptions.
        severities: Severities, 1 to 5.
        size: Side of the photos in pixels, at which they are corrupted.
        seed: Random seed of corruptions and bootstrap.
        draws: Number of bootstrap draws.
        track: Progress display.
        generation: Generation settings over the captioners' own.

    Raises:
        CorruptionError: A corruption or severity is unknown, or the package is missing.
        JavaError: No Java.
        ImageError: A photo can't be read.
    """
    check_corruptions(tuple(names), tuple(severities), size)
    entries = [(each, budget) for each in contenders for budget in each.budgets]
    conditions = [(CLEAN, 0), *((name, severity) for name in names for severity in severities)]
    scores: dict[tuple[int, str, int], np.ndarray] = {}  # (entry, corruption, severity) -> CIDEr of each photo (N,)
    for name, severity in conditions:
        split = corrupted_split(captions, name, severity, size, seed)
        for number, (each, budget) in enumerate(entries):
            settings = {**each.generation, **generation}
            texts = caption_split(each, budget, split, out, settings, track).texts
            per_photo = score(texts, captions.references(), metrics=["CIDEr"]).per_image["CIDEr"]
            scores[number, name, severity] = np.array([per_photo[i] for i in captions.image_ids])
    return [
        row
        for number, (each, budget) in enumerate(entries)
        for row in _rows(each, budget, {key[1:]: own for key, own in scores.items() if key[0] == number}, draws, seed)
    ]


def _rows(
    each: Contender, budget: int, scores: dict[tuple[str, int], np.ndarray], draws: int, seed: int
) -> Iterator[CorruptedRow]:
    names = list(dict.fromkeys(name for name, _ in scores))
    severities = sorted({severity for _, severity in scores if severity})
    means = {name: np.mean([own for key, own in scores.items() if key[0] == name], axis=0) for name in names}
    if len(names) > 2:
        means[ALL] = np.mean([own for name, own in means.items() if name != CLEAN], axis=0)
    resampled = bootstrap(np.array([*means.values()]), draws, seed)  # (draws, rows)
    tokens = subject(each.captioner).token_count(budget)
    for number, (name, own) in enumerate(means.items()):
        by_severity = {
            str(severity): float(
                np.mean([mine for key, mine in scores.items() if key[1] == severity and name in (key[0], ALL)])
            )
            for severity in ([] if name == CLEAN else severities)
        }
        low, high = interval(resampled[:, number])
        lost_low, lost_high = interval(resampled[:, 0] - resampled[:, number])
        yield CorruptedRow(
            each.name,
            budget,
            tokens,
            name,
            float(own.mean()),
            low,
            high,
            float(means[CLEAN].mean() - own.mean()),
            lost_low,
            lost_high,
            by_severity,
        )


def write_corrupted(rows: Sequence[CorruptedRow], setting: dict[str, Any], out: Path) -> None:
    """Writes corruptions.json and corruptions.csv."""
    values = {"rows": [asdict(row) for row in rows], "setting": setting}
    (out / "corruptions.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    names = [each.name for each in fields(CorruptedRow) if each.name != "severities"]
    severities = list(dict.fromkeys(severity for row in rows for severity in row.severities))
    with open(out / "corruptions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*names, *(f"severity_{each}" for each in severities)], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(
            asdict(row) | {f"severity_{each}": value for each, value in row.severities.items()} for row in rows
        )


def corrupted_table(rows: Sequence[CorruptedRow], setting: dict[str, Any]) -> Table:
    """A line per captioner, budget and corruption: CIDEr x 100, its interval, and what is lost."""
    title = (
        f"{setting['data']} {setting['split']}, N = {setting['N']}, photos of {setting['corruption_size']} px: "
        "CIDEr x 100, mean over severities, and what is lost of the clean score"
    )
    table = terminal_table(title, "captioner", ("tokens", "corruption", "CIDEr", f"{LEVEL:.0%}", "lost", "interval"))
    for row in rows:
        clean = row.corruption == CLEAN
        table.add_row(
            row.model,
            str(row.tokens),
            row.corruption,
            f"{row.CIDEr * 100:.1f}",
            f"{row.low * 100:.1f}-{row.high * 100:.1f}",
            "" if clean else f"{row.lost * 100:.1f}",
            "" if clean else f"{row.lost_low * 100:.1f} to {row.lost_high * 100:.1f}",
        )
    return table
