"""A comparison for people: plots (figures.py) in one self-contained HTML page, the table, and the files of both."""

import base64
import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import matplotlib
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from PIL import Image
from rich.table import Table

from ..data.captions import CaptionSet, read_coco_results
from .bootstrap import pareto
from .figures import COSTS, plot, plot_budgets, plot_sizes
from .rows import Comparison, Row
from .terminal import terminal_table

NOTHING = "-"  # in a table, in place of a cost that is not known
INK = "#010203"  # placeholder for the page's text color in an inline plot
PHOTO_SIDE = 320  # pixels
WRITTEN = ("comparison.json", "comparison.csv", "comparison.svg", "comparison.html")


@dataclass(frozen=True)
class Example:
    """A photo of the page: a data URI, its human captions, and each row's caption."""

    photo: str
    references: list[str]
    captions: list[tuple[Row, str]]


def inline_svg(figure: Figure, title: str) -> str:
    """A figure as inline SVG that takes the page's width and text color."""
    buffer = io.StringIO()
    # The salt makes the ids: two figures of one page must not share any, and the same figure must be the same text.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    named = rf'<svg viewBox="\1" role="img" aria-label="{title}">'
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', named, svg, count=1)


def write_plot(comparison: Comparison, path: Path, cost: str = "gflops") -> None:
    """Writes one plot on white; the suffix selects the format, .svg or .png."""
    with matplotlib.rc_context({"svg.hashsalt": cost}):
        plot(comparison, cost).savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else {})


def examples(comparison: Comparison, captions: CaptionSet, folder: Path, count: int) -> list[Example]:
    """Photos spread over the split, with the caption of every row.

    Args:
        comparison: Rows to show.
        captions: Split that the rows captioned.
        folder: Folder that the rows' `predictions` are relative to.
        count: Number of photos.
    """
    count = min(count, len(captions))
    said = [read_coco_results(folder / row.predictions) for row in comparison.rows]
    found = []
    for i in (n * len(captions) // count for n in range(count)):
        image_id = captions.image_ids[i]
        texts = [(row, mine[image_id]) for row, mine in zip(comparison.rows, said, strict=True)]
        found.append(Example(_data_uri(captions.image(i)), captions.captions[i], texts))
    return found


def _data_uri(photo: Image.Image) -> str:
    photo.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def write_csv(comparison: Comparison, path: Path) -> None:
    """Writes one line per row with the fields of `Row`."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in comparison.rows)


def table(comparison: Comparison) -> Table:
    """The rows as a table for a terminal."""
    setting = comparison.setting
    title = f"{setting['data']} {setting['split']}, N = {setting['N']}; scores x 100; costs are encoder + decoder"
    level = f"{setting['bootstrap']['level']:.0%}"
    found = terminal_table(title, "model", ("tokens", "CIDEr", level, "BLEU-4", "ROUGE-L", "GFLOPs", "ms"))
    for row in comparison.rows:
        found.add_row(
            row.model,
            NOTHING if row.tokens is None else str(row.tokens),
            f"{row.CIDEr * 100:.1f}",
            f"{row.cider_low * 100:.1f}-{row.cider_high * 100:.1f}",
            f"{row.Bleu_4 * 100:.1f}",
            f"{row.ROUGE_L * 100:.1f}",
            _gflops(row),
            _sum(row.encoder_ms, row.decoder_ms, ".0f"),
        )
    return found


def _gflops(row: Row) -> str:
    """GFLOPs of encoder and decoder, or the stated sum."""
    if row.encoder_gflops is None and row.stated_gflops is not None:
        return f"{row.stated_gflops:.3g}"
    return _sum(row.encoder_gflops, row.decoder_gflops, ".3g")


def _sum(encoder: float | None, decoder: float | None, form: str) -> str:
    return NOTHING if encoder is None or decoder is None else f"{encoder:{form}} + {decoder:{form}}"


def _front(rows: Sequence[Row], cost: str) -> set[int]:
    """Identities of the rows on the Pareto front of a cost, of those whose cost is known."""
    known = [row for row in rows if getattr(row, cost) is not None]
    return {id(known[n]) for n in pareto([getattr(row, cost) for row in known], [row.CIDEr for row in known])}


def write_all(comparison: Comparison, captions: CaptionSet, folder: Path, photos: int = 0) -> None:
    """Writes comparison.json, .csv, .svg (the plot against GFLOPs) and .html (the page) into a folder.

    Args:
        comparison: Result of `compare`, with its predictions in that folder.
        captions: Split that was captioned.
        folder: Folder to write into.
        photos: Number of the split's photos to embed in the page.
    """
    (folder / "comparison.json").write_text(json.dumps(comparison.to_dict(), indent=2) + "\n", encoding="utf-8")
    write_csv(comparison, folder / "comparison.csv")
    write_plot(comparison, folder / "comparison.svg")
    write_page(comparison, folder / "comparison.html", examples(comparison, captions, folder, photos) if photos else [])


def write_page(comparison: Comparison, path: Path, photos: Sequence[Example] = ()) -> None:
    """Writes the page as one file that loads nothing else.

    Args:
        comparison: Comparison to show.
        path: File to write.
        photos: Result of `examples`; the photos are embedded in the file.
    """
    rows = comparison.rows
    best = max(range(len(rows)), key=lambda number: rows[number].CIDEr)
    fronts = {cost: _front(rows, cost) for cost in COSTS}
    settings = comparison.setting["generation"]
    alike = [*settings.values()].count(next(iter(settings.values()), None)) == len(settings)
    loader = PackageLoader("vlcap.evaluation", ".")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    path.write_text(
        environment.get_template("comparison.html").render(
            rows=rows,
            setting=comparison.setting,
            plots=[
                inline_svg(plot(comparison, cost, ink=INK, ground="none"), f"CIDEr against {COSTS[cost]}")
                for cost in COSTS
            ],
            further=[
                inline_svg(figure, title)
                for figure, title in (
                    (plot_budgets(comparison, ink=INK, ground="none"), "CIDEr against tokens"),
                    (plot_sizes(comparison, ink=INK, ground="none"), "CIDEr against image size"),
                )
                if figure
            ],
            on_front=lambda row: [cost for cost in COSTS if id(row) in fronts[cost]],
            best=rows[best],
            against_best=[each for each in comparison.differences if each.than == best],
            decoding=[("all", each) for each in settings.values()][:1] if alike else list(settings.items()),
            unknown=[row for row in rows if row.encoder is None],
            nothing=NOTHING,
            pairs={(each.row, each.than): each for each in comparison.differences},
            photos=photos,
        ),
        encoding="utf-8",
    )
