"""The plots of a comparison: CIDEr against cost, against tokens, and against image size.

A point is a row, a line a captioner, a thin bar the confidence interval. Against cost, a dashed line joins the Pareto
front: the rows that no other row beats at their cost. A row whose cost is not known is a dotted line. The other two
follow the LookupViT paper, for captions: Figure 5 (b), models at budgets they were not trained for, and Figure 1 (b),
one model at several image sizes.
"""

from collections.abc import Callable, Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .bootstrap import pareto
from .rows import Comparison, Row

COSTS = {"gflops": "GFLOPs per photo (encoder + decoder)", "ms": "milliseconds per photo (encoder + decoder)"}
# After Okabe and Ito's palette, which color-blind people can tell apart; each is readable on white and on black.
COLORS = ("#2f8fd8", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#9467bd", "#7f7f7f", "#b5a800")
MARKERS = "osD^vP*Xph"


def plot(comparison: Comparison, cost: str, ink: str = "#222222", ground: str = "white") -> Figure:
    """CIDEr x 100 against a cost, a point per budget, labeled with its tokens.

    Args:
        comparison: Rows to plot.
        cost: "gflops" or "ms".
        ink: Color of axes and text.
        ground: Color of the background, or "none".
    """
    rows = [row for row in comparison.rows if getattr(row, cost) is not None]
    lines = {name: [row for row in rows if row.model == name] for name in dict.fromkeys(row.model for row in rows)}
    figure, axes = _figure(COSTS[cost], comparison.rows[0].N, ink, ground)
    _draw_lines(axes, lines, lambda row: getattr(row, cost), lambda row: row.budget or 0, ground)
    front = [rows[number] for number in pareto([getattr(row, cost) for row in rows], [row.CIDEr for row in rows])]
    axes.plot(
        [getattr(row, cost) for row in front],
        [row.CIDEr * 100 for row in front],
        color=ink,
        linestyle=(0, (4, 3)),
        linewidth=1.2,
        marker="o",
        markersize=13,
        markerfacecolor="none",
        label="Pareto front",
        zorder=1,
    )
    for number, row in enumerate(row for row in comparison.rows if getattr(row, cost) is None):
        color = COLORS[(len(lines) + number) % len(COLORS)]
        axes.axhline(row.CIDEr * 100, color=color, linestyle=":", linewidth=1.4, label=f"{row.model} (cost not known)")
    _add_legend(figure, ink)
    return figure


def plot_budgets(comparison: Comparison, ink: str = "#222222", ground: str = "white") -> Figure | None:
    """CIDEr x 100 against tokens, for captioners that were compared at several budgets; hollow where untrained.

    Returns:
        The figure; None if every captioner was compared only at what it was trained for.
    """
    rows = [row for row in comparison.rows if row.family in (None, row.model)]  # at the captioners' own image size
    lines = {name: [row for row in rows if row.model == name] for name in dict.fromkeys(row.model for row in rows)}
    lines = {name: mine for name, mine in lines.items() if len(mine) > 1}
    if all(row.trained_for for mine in lines.values() for row in mine):
        return None
    figure, axes = _figure("tokens that the decoder reads", rows[0].N, ink, ground)
    _draw_lines(axes, lines, lambda row: row.tokens or 0, lambda row: row.tokens or 0, ground, named=False)
    _set_ticks(axes, (row.tokens or 0 for mine in lines.values() for row in mine))
    _add_legend(figure, ink)
    return figure


def plot_sizes(comparison: Comparison, ink: str = "#222222", ground: str = "white") -> Figure | None:
    """CIDEr x 100 against the side of the photos in pixels, a line per captioner, and budget where it has several.

    Returns:
        The figure; None if no captioner was compared at several image sizes.
    """
    lines: dict[str, list[Row]] = {}
    for family in dict.fromkeys(row.family for row in comparison.rows if row.family):
        mine = [row for row in comparison.rows if row.family == family]
        if len({row.image_size for row in mine}) < 2:
            continue
        chosen = len({row.model for row in mine}) < len(mine)  # several budgets at one size
        for row in mine:
            lines.setdefault(f"{family}, {row.tokens} tokens" if chosen else family, []).append(row)
    if not lines:
        return None
    figure, axes = _figure("side of the photos in pixels", comparison.rows[0].N, ink, ground)
    _draw_lines(axes, lines, lambda row: row.image_size or 0, lambda row: row.image_size or 0, ground)
    _set_ticks(axes, (row.image_size or 0 for mine in lines.values() for row in mine))
    _add_legend(figure, ink)
    return figure


def _figure(across: str, photos: int, ink: str, ground: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 5.0), facecolor=ground, layout="constrained")
    axes = figure.add_subplot(facecolor=ground)
    axes.set_xlabel(across, color=ink)
    axes.set_ylabel(f"CIDEr x 100 (N = {photos})", color=ink)
    axes.tick_params(colors=ink)
    axes.grid(color=ink, alpha=0.15, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(ink)
    return figure, axes


def _add_legend(figure: Figure, ink: str) -> None:
    figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=ink, fontsize=9)


def _set_ticks(axes: Axes, values: Iterable[int]) -> None:
    ticks = sorted(set(values))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])


def _draw_lines(
    axes: Axes,
    lines: dict[str, list[Row]],
    across: Callable[[Row], float],
    order: Callable[[Row], int],
    ground: str,
    named: bool = True,
) -> None:
    """Draws named lines through rows.

    Args:
        axes: Where to draw.
        lines: Rows of each line, by its label.
        across: A row's place on the horizontal axis.
        order: What the rows of a line are sorted by.
        ground: Color of the background.
        named: Whether points are labeled with their tokens. If not, those that a row was not trained for are hollow.
    """
    for number, (name, rows) in enumerate(lines.items()):
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        _draw_line(axes, name, sorted(rows, key=order), across, color, marker, named)
        hollow = [row for row in rows if not (named or row.trained_for)]
        inside = "white" if ground == "none" else ground
        axes.plot(
            [across(row) for row in hollow],
            [row.CIDEr * 100 for row in hollow],
            color=color,
            linestyle="none",
            marker=marker,
            markersize=6,
            markerfacecolor=inside,
            zorder=5,
        )


def _draw_line(
    axes: Axes,
    name: str,
    rows: Sequence[Row],
    across: Callable[[Row], float],
    color: str,
    marker: str,
    labeled: bool,
) -> None:
    """One line with confidence intervals."""
    places, up = [across(row) for row in rows], [row.CIDEr * 100 for row in rows]
    below = [max(0.0, row.CIDEr - row.cider_low) * 100 for row in rows]
    above = [max(0.0, row.cider_high - row.CIDEr) * 100 for row in rows]
    axes.errorbar(
        places,
        up,
        yerr=[below, above],
        color=color,
        marker=marker,
        markersize=6,
        linewidth=1.6,
        elinewidth=0.8,
        label=name,
    )
    for row, x, y in zip(rows, places, up, strict=True):
        if labeled and row.tokens is not None:
            axes.annotate(str(row.tokens), (x, y), xytext=(5, 5), textcoords="offset points", color=color, fontsize=9)
