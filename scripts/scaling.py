"""How captions scale with pretraining and with the models' sizes: the plot and the table of docs/experiments.md.

    vlcap train study --recipe study-classes ... --out runs/study-classes
    vlcap train study --recipe study-decoder ... --out runs/study-decoder
    python scripts/scaling.py --classes runs/study-classes --decoders runs/study-decoder --out docs/scaling.png

Reads the two studies' stages.json and models; trains nothing.
"""

import json
from math import log10
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
import yaml
from matplotlib.figure import Figure

from vlcap.captioner import Captioner
from vlcap.evaluation.compare import slug
from vlcap.model.encoder import Encoder

LENGTHS = ("steps260", "classes", "steps1041", "steps12910")  # rows by length of pretraining
ENCODERS = ("embed96", "embed144", "classes", "embed240")  # rows by width of the encoder
DECODERS = ("width128", "base", "width384", "width512")  # rows by width of the decoder
STAGE = "classes"


class Point(NamedTuple):
    """What the training of an encoder cost, and what it reached."""

    steps: int
    parameters: float  # millions
    gflops: float  # of training; a photo takes three times its forward pass
    top1: float  # %
    cider: float  # x 100


def main(
    classes: Annotated[Path, typer.Option(help="Run of study-classes.")],
    decoders: Annotated[Path, typer.Option(help="Run of study-decoder.")],
    out: Annotated[Path, typer.Option(help="Image to write.")],
) -> None:
    """Draws accuracy and CIDEr against pretraining's length and the two models' sizes; prints the points and a fit."""
    stages, recipe = read(classes, "stages.json"), read(classes, "recipe.yaml")
    lengths, encoders = ([point(classes, stages, recipe, name) for name in names] for names in (LENGTHS, ENCODERS))
    sizes = [decoder_parameters(decoders / f"{name}-captioner" / "captioner") for name in DECODERS]
    ciders = [cider(read(decoders, "stages.json"), name) for name in DECODERS]

    print("| encoder | steps | parameters, M | training GFLOPs | top-1, % | CIDEr x 100 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, each in zip((*LENGTHS, *ENCODERS), (*lengths, *encoders), strict=True):
        cells = f"{each.steps} | {each.parameters:.2f} | {each.gflops:.2g} | {each.top1:.1f} | {each.cider:.1f}"
        print(f"| `{name}` | {cells} |")
    for name, size, value in zip(DECODERS, sizes, ciders, strict=True):
        print(f"| the given encoder, decoder `{name}` | | {size:.2f} | | | {value:.1f} |")
    slope, start = np.polyfit([log10(each.gflops) for each in lengths], [each.cider for each in lengths], deg=1)
    print(f"\nCIDEr x 100 = {start:.1f} + {slope:.1f} log10(training GFLOPs), over the lengths")
    draw(lengths, encoders, sizes, ciders).savefig(out, dpi=120)


def draw(lengths: list[Point], encoders: list[Point], sizes: list[float], ciders: list[float]) -> Figure:
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, 3, sharex="col", sharey="row")
    for column, (points, along) in enumerate(((lengths, "steps"), (encoders, "parameters"))):
        for place, measure in zip(axes[:, column], ("top1", "cider"), strict=True):
            place.plot([getattr(each, along) for each in points], [getattr(each, measure) for each in points], "o-")
    axes[1, 2].plot(sizes, ciders, "o-")
    for place in axes.flat:
        place.set_xscale("log")
        if place.lines:  # ticks at the points' own values say more than powers of ten
            values = place.lines[0].get_xdata()
            place.set_xticks(values, [f"{value:.2g}" if value < 100 else f"{value:,.0f}" for value in values])
            place.minorticks_off()
        place.grid(visible=True, alpha=0.3)
    axes[0, 2].set_axis_off()
    axes[0, 0].set_ylabel("top-1 of the classes, %")
    axes[1, 0].set_ylabel("CIDEr x 100 on validation")
    axes[1, 0].set_xlabel("steps of pretraining")
    axes[1, 1].set_xlabel("parameters of the encoder, millions")
    axes[1, 2].set_xlabel("parameters of the decoder, millions")
    return figure


def read(run: Path, name: str) -> dict[str, Any]:
    text = (run / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


def point(run: Path, stages: dict[str, Any], recipe: dict[str, Any], name: str) -> Point:
    stage = stages[f"{slug(name)}-{STAGE}"]
    encoder = Encoder.load(run / f"{slug(name)}-{STAGE}" / "encoder").without_heads()
    steps = stage["recipe"]["steps"] + next(row["prior_steps"] for row in recipe["rows"] if row["name"] == name)
    forward = np.mean([encoder.gflops(budget) for budget in encoder.config.budgets])
    return Point(
        steps=steps,
        parameters=sum(weight.numel() for weight in encoder.parameters()) / 1e6,
        gflops=3 * float(forward) * stage["recipe"]["batch_size"] * steps,
        top1=100 * max(value for name, value in stage["figures"].items() if name.startswith("top1")),
        cider=cider(stages, name),
    )


def cider(stages: dict[str, Any], name: str) -> float:
    figures = stages[f"{slug(name)}-captioner"]["figures"]
    return max(value for figure, value in figures.items() if figure.startswith("CIDEr"))


def decoder_parameters(captioner: Path) -> float:
    """Millions of parameters besides the encoder's."""
    model = Captioner.from_pretrained(captioner, engine="pytorch").model
    return sum(weight.numel() for name, weight in model.named_parameters() if not name.startswith("encoder.")) / 1e6


if __name__ == "__main__":
    typer.run(main)
