"""The plots of a probe: accuracy against shots; under corruption, accuracy, deviation and its density (Figure 4)."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..evaluation.figures import COLORS, MARKERS
from .few_shot import FewShotRow
from .robustness import Robustness

INK, GROUND = "#222222", "white"
STYLES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))  # of an encoder's budgets


def plot_few_shot(rows: Sequence[FewShotRow]) -> Figure:
    """Accuracy against shots per class: a color per encoder, a style of line per budget, bars for the intervals."""
    figure = Figure(figsize=(5.2, 5.0), facecolor=GROUND, layout="constrained")
    axes = _axes(figure, 111, "photos of each class", "accuracy, %")
    lines: dict[tuple[str, int, int], list[FewShotRow]] = {}
    for row in rows:
        lines.setdefault((row.encoder, row.budget, row.tokens), []).append(row)
    look = _looks([(encoder, budget) for encoder, budget, _ in lines])
    for (encoder, budget, tokens), own in lines.items():
        axes.errorbar(
            [row.shots for row in own],
            [row.accuracy * 100 for row in own],
            yerr=[
                [max(0.0, row.accuracy - row.low) * 100 for row in own],
                [max(0.0, row.high - row.accuracy) * 100 for row in own],
            ],
            label=f"{encoder}, {tokens} tokens",
            elinewidth=0.8,
            **look(encoder, budget),
        )
    shots = sorted({row.shots for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(shots, [str(each) for each in shots])
    axes.minorticks_off()
    figure.legend(loc="outside lower center", handlelength=3, ncols=2, frameon=False, labelcolor=INK, fontsize=9)
    return figure


def plot_corruptions(summary: Sequence[Robustness]) -> Figure:
    """Mean accuracy and mean deviation against severity, and the density of deviations at the highest severity."""
    figure = Figure(figsize=(13.5, 4.8), facecolor=GROUND, layout="constrained")
    severities = sorted(int(each) for each in summary[0].deviation)
    by_severity = "severity (0: the clean photo)"
    accuracy = _axes(figure, 131, by_severity, "accuracy, mean over corruptions, %")
    mean = _axes(figure, 132, by_severity, "normalized feature deviation, mean")
    density = _axes(figure, 133, f"normalized feature deviation at severity {severities[-1]}", "density")
    look = _looks([(each.encoder, each.budget) for each in summary])
    for each in summary:
        style = look(each.encoder, each.budget)
        label = f"{each.encoder}, {each.tokens} tokens"
        heights = [100 * each.clean, *(100 * each.accuracy[str(severity)] for severity in severities)]
        accuracy.plot([0, *severities], heights, label=label, **style)
        mean.plot([0, *severities], [0.0, *(each.deviation[str(severity)] for severity in severities)], **style)
        middles = [(low + high) / 2 for low, high in zip(each.edges, each.edges[1:], strict=False)]
        density.plot(middles, each.density, **{**style, "marker": ""})
    for axes in (accuracy, mean):
        axes.set_xticks([0, *severities])
    figure.legend(loc="outside lower center", handlelength=3, ncols=3, frameon=False, labelcolor=INK, fontsize=9)
    return figure


def _axes(figure: Figure, place: int, across: str, up: str) -> Axes:
    axes = figure.add_subplot(place)
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.tick_params(colors=INK)
    axes.grid(color=INK, alpha=0.15, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    return axes


def _looks(lines: Sequence[tuple[str, int]]) -> Callable[[str, int], dict]:
    """How lines look: the color and marker of their encoder, the style of their place among its budgets."""
    encoders = list(dict.fromkeys(encoder for encoder, _ in lines))

    def look(encoder: str, budget: int) -> dict:
        number = encoders.index(encoder)
        budgets = sorted({each for name, each in lines if name == encoder})
        return {
            "color": COLORS[number % len(COLORS)],
            "marker": MARKERS[number % len(MARKERS)],
            "markersize": 5,
            "linewidth": 1.6,
            "linestyle": STYLES[budgets.index(budget) % len(STYLES)],
        }

    return look
