"""A probe for people and programs: tables for the terminal, JSON, CSV and plots."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from rich.table import Table

from ..evaluation.bootstrap import LEVEL
from ..evaluation.terminal import terminal_table
from .few_shot import FewShotRow
from .figures import plot_corruptions, plot_few_shot
from .robustness import Corrupted, CorruptionRow

FEW_SHOT = ("few_shot.json", "few_shot.csv", "few_shot.svg")
CORRUPTED = ("corruptions.json", "corruptions.csv", "corruptions.svg")


def few_shot_table(rows: Sequence[FewShotRow], setting: dict[str, Any]) -> Table:
    """A line per encoder and budget: accuracy in % for each number of shots, with half of its interval's width."""
    title = (
        f"{setting['data']} {setting['split']}, N = {setting['N']}: accuracy in %, ridge regression on "
        f"{setting['draws']} draws; in brackets what is lost against the encoder's largest budget"
    )
    shots = [f"{each} shot{'s' if each > 1 else ''}" for each in sorted({row.shots for row in rows})]
    table = terminal_table(title, "encoder", ("tokens", *shots), wrapped=shots)
    for encoder, budget in dict.fromkeys((row.encoder, row.budget) for row in rows):
        mine = [row for row in rows if (row.encoder, row.budget) == (encoder, budget)]
        cells = [_few_shot_cell(row) for row in sorted(mine, key=lambda row: row.shots)]
        table.add_row(encoder, str(mine[0].tokens), *cells)
    return table


def _few_shot_cell(row: FewShotRow) -> str:
    lost = "" if row.loss is None else f" ({row.loss * 100:+z.1f})"
    return f"{row.accuracy * 100:.1f} ± {(row.high - row.low) * 50:.1f}{lost}"


def corruption_table(found: Corrupted, setting: dict[str, Any]) -> Table:
    """A line per encoder and budget, as the paper's Table 6, with the mean deviation at the highest severity."""
    names = setting["corruptions"]
    under = f"the mean over {len(names)} corruptions" if len(names) > 1 else names[0]
    title = (
        f"{setting['data']} {setting['split']}, N = {setting['N']}, photos of {setting['corruption_size']} px: "
        f"accuracy in %, {under}; mCE against {found.reference}"
    )
    severities = sorted(found.summary[0].deviation)
    headings = ("tokens", "by", "clean", *(f"sev {each}" for each in severities), "mean", "mCE", "deviation")
    table = terminal_table(title, "encoder", headings)
    for each in found.summary:
        table.add_row(
            each.encoder,
            str(each.tokens),
            each.classifier,
            f"{each.clean * 100:.1f}",
            *(f"{each.accuracy[severity] * 100:.1f}" for severity in severities),
            f"{each.accuracy['mean'] * 100:.1f}",
            "-" if each.mce is None else f"{each.mce:.1f}",
            f"{each.deviation[severities[-1]]:.3f}",
        )
    return table


def write_few_shot(rows: Sequence[FewShotRow], setting: dict[str, Any], out: Path) -> None:
    """Writes few_shot.json (all figures), few_shot.csv (the table) and few_shot.svg (the plot)."""
    values = {"rows": [asdict(row) for row in rows], "level": LEVEL, "setting": setting}
    _write_json(out / "few_shot.json", values)
    names = [each.name for each in fields(FewShotRow) if each.name != "accuracies"]
    _write_csv(out / "few_shot.csv", names, [asdict(row) for row in rows])
    _write_plot(out / "few_shot.svg", plot_few_shot(rows))


def write_corruptions(found: Corrupted, setting: dict[str, Any], out: Path) -> None:
    """Writes corruptions.json (all figures), .csv (each corruption at each severity) and .svg (the plots)."""
    _write_json(out / "corruptions.json", asdict(found) | {"setting": setting})
    names = [each.name for each in fields(CorruptionRow)]
    _write_csv(out / "corruptions.csv", names, [asdict(row) for row in found.rows])
    _write_plot(out / "corruptions.svg", plot_corruptions(found.summary))


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _write_csv(path: Path, names: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _write_plot(path: Path, figure: Figure) -> None:
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None})
