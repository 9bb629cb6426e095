"""The experiments of docs/experiments.md: runs ablations that are not there yet, prints their table; decodes.

    python scripts/experiments.py run --data-classes DIR --data-captions DIR --data-captions DIR --runs RUNS [NAME ...]
    python scripts/experiments.py table --runs RUNS
    python scripts/experiments.py plot --runs RUNS --out docs/scaling.png
    python scripts/experiments.py decode --model RUN/captioner --data-captions DIR --data-captions DIR

An ablation is an ordinary run of `vlcap train` with one setting of a shared base changed; stopped at any point, the
same command goes on from there. Those of the decoder read the tokens of `--encoder`; those of the
encoder train a new one and then the base's decoder on it.
"""

import subprocess
import sys
from itertools import pairwise
from math import log10
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer

from train.progress import read_log
from vlcap.captioner import Captioner
from vlcap.data.captions import CaptionSet, read_captions
from vlcap.evaluation.metrics import score
from vlcap.model.encoder import Encoder

DECODER = [  # captioner-mini as it was before these runs, and shorter
    "width=256",
    "heads=4",
    "dropout=0.1",
    "lr=1e-3",
    "cache_views=1",
    "epochs=4",
    "warmup=0.2",
    "ema_decay=0.99",
    "evaluate_every=4",
]
WORDS = ["steps=282", "schedule=linear", "ema_decay=0", "evaluate_every=3"]  # of caption-words; 3 epochs of Flickr8k
PRETRAINING = ["steps=520", "schedule=linear", "ema_decay=0", "evaluate_every=100"]  # of tiny-imagenet; half an epoch
BATCH = 64  # photos per step of all these
PAUSE = 300  # seconds without a line in a log: the run was interrupted


class Ablation(NamedTuple):
    """A base's setting changed, or two that belong together.

    Without `words` and `pretraining` the decoder reads the encoder it is given; with `words`, the Tiny-ImageNet
    encoder taught the words anew; with `pretraining`, an encoder from scratch that has seen classes only.
    """

    name: str
    subject: str
    decoder: tuple[str, ...] = ()
    words: tuple[str, ...] | None = None
    pretraining: tuple[str, ...] | None = None
    continues: int = 0  # steps that the Tiny-ImageNet encoder has behind it, where the pretraining starts from that one
    kept: bool = False  # in the bundled captioner's recipes


ABLATIONS = [
    Ablation("base", "decoder: base, seed 0"),
    Ablation("base-seed1", "the same, seed 1", ("seed=1",)),
    Ablation("base-seed2", "the same, seed 2", ("seed=2",)),
    Ablation("width128", "width", ("width=128",)),
    Ablation("width384", "width", ("width=384", "heads=6")),
    Ablation("width512", "width", ("width=512", "heads=8")),
    Ablation("layers1", "depth", ("layers=1",)),
    Ablation("layers4", "depth", ("layers=4",)),
    Ablation("dropout0", "dropout", ("dropout=0",)),
    Ablation("dropout3", "dropout", ("dropout=0.3",)),
    Ablation("vocab1000", "vocabulary", ("vocab_size=1000",)),
    Ablation("vocab6000", "vocabulary", ("vocab_size=6000",)),
    Ablation("cased", "lower-casing", ("lowercase=false",)),
    Ablation("smoothing0", "label smoothing", ("smoothing=0",)),
    Ablation("smoothing2", "label smoothing", ("smoothing=0.2",)),
    Ablation("views3", "augmented views", ("cache_views=3",)),
    Ablation("captions1", "captions per photo", ("captions_per_photo=1",)),
    Ablation("captions2", "captions per photo", ("captions_per_photo=2",)),
    Ablation("decay0", "weight decay", ("weight_decay=0",)),
    Ablation("decay3", "weight decay", ("weight_decay=0.3",)),
    Ablation("no-ema", "averaged weights", ("ema_decay=0",)),
    Ablation("lr5e-4", "learning rate", ("lr=5e-4",)),
    Ablation("lr2e-3", "learning rate", ("lr=2e-3",)),
    Ablation("together", "what helped, together", ("width=384", "heads=6", "dropout=0", "lr=2e-3"), kept=True),
    Ablation("budget3", "budget", ("budgets=[3]",)),
    Ablation("budget5", "budget", ("budgets=[5]",)),
    Ablation("budget7", "budget", ("budgets=[7]",)),
    Ablation("lookup", "lookup tokens in place of compressed ones", ("budgets=[5]",)),
    Ablation("words", "words: base, seed 0, 64 px", words=(), kept=True),
    Ablation("words-seed1", "the same, seed 1", words=("seed=1",)),
    Ablation("no-words", "no words: as Tiny-ImageNet left it"),
    Ablation("size48", "image size", words=("image_size=48",)),
    Ablation("size96", "image size", words=("image_size=96",), kept=True),
    Ablation("size128", "image size", words=("image_size=128",)),
    Ablation("single", "one resolution", words=("budgets=[5]",)),
    Ablation("light1", "AugReg light1", words=("mixup=0.2", "auto_augment=rand-n2-m0")),
    Ablation("medium1", "AugReg medium1", words=("mixup=0.2", "auto_augment=rand-n2-m15")),
    Ablation("strong1", "AugReg strong1", words=("mixup=0.5", "auto_augment=rand-n2-m20")),
    Ablation("classes", "classes: base, seed 0, width 192", pretraining=(), kept=True),
    Ablation("embed96", "encoder's width", pretraining=("model_args={embed_dim: 96}",)),
    Ablation("embed144", "encoder's width", pretraining=("model_args={embed_dim: 144}",)),
    Ablation("embed240", "encoder's width", pretraining=("model_args={embed_dim: 240}",)),
    Ablation("patch4", "patch, as many of them", pretraining=("model_args={patch_size: 4}", "image_size=32")),
    Ablation("patch16", "patch, as many of them", pretraining=("model_args={patch_size: 16}", "image_size=128")),
    Ablation("steps260", "length", pretraining=("steps=260",)),
    Ablation("steps1041", "length", pretraining=("steps=1041",)),
    Ablation("steps12910", "length: 10,410 steps, then these", pretraining=("steps=2500", "lr=8e-4"), continues=10_410),
]
LENGTHS = ("steps260", "classes", "steps1041", "steps12910")  # of pretraining
ENCODERS = ("embed96", "embed144", "classes", "embed240")  # by width
DECODERS = ("width128", "base", "width384", "width512")
DECODING: list[dict[str, Any]] = [
    {"num_beams": beams, "repetition_penalty": penalty, "length_penalty": length}
    for beams, penalty, length in (
        (1, 1.0, 1.0),
        (4, 1.0, 1.0),
        (2, 1.4, 1.0),
        (3, 1.4, 1.0),
        (4, 1.2, 1.0),
        (4, 1.4, 1.0),
        (4, 1.6, 1.0),
        (4, 1.8, 1.0),
        (4, 2.0, 1.0),
        (5, 1.4, 1.0),
        (5, 1.8, 1.0),
        (4, 1.4, 0.0),
        (4, 1.4, 0.5),
        (4, 1.4, 1.5),
        (4, 1.6, 0.5),
        (5, 1.6, 0.5),
        (4, 1.0, 0.5),
        (4, 2.0, 0.5),
        (6, 1.6, 0.5),
        (8, 1.6, 0.7),
        (4, 1.3, 0.7),
        (4, 1.6, 0.7),
        (6, 1.6, 0.7),
        (6, 2.0, 0.5),
    )
]
app = typer.Typer(add_completion=False)
Runs = Annotated[Path, typer.Option(help="Folder of the runs.")]


@app.command()
def run(
    data_classes: Annotated[str, typer.Option()],
    data_captions: Annotated[list[str], typer.Option()],
    runs: Runs,
    encoder: Annotated[str, typer.Option(help="What the decoder's ablations read.")] = "runs/caption-words-96/encoder",
    pretrained: Annotated[
        str,
        typer.Option(help="What the words' ablations start from; steps=10410 of it here."),
    ] = "runs/tiny-imagenet/encoder",
    names: Annotated[list[str] | None, typer.Argument()] = None,
) -> None:
    """Runs these ablations, or all."""
    for each in ABLATIONS:
        if names and each.name not in names:
            continue
        own = runs / f"{each.name}-encoder"
        reads, settings = pretrained if each.name == "no-words" else encoder, DECODER
        start = [f"encoder={pretrained}"]
        if each.words is not None:
            train("classifier", "caption-words", data_captions, own, [*WORDS, *start, *each.words])
        if each.pretraining is not None:
            start = start if each.continues else []
            train("classifier", "tiny-imagenet", [data_classes], own, [*PRETRAINING, *start, *each.pretraining])
        if each.words is not None or each.pretraining is not None:
            reads = str(own / "encoder")
        if reads != encoder:
            settings = [*DECODER, "budgets=[5]" if each.pretraining is None else "budgets=[4]"]
        if each.name == "lookup":
            reads = show_lookup_tokens(reads, own)
        train(
            "captioner",
            "captioner-mini",
            data_captions,
            runs / each.name,
            [*settings, f"encoder={reads}", *each.decoder],
        )


def show_lookup_tokens(encoder: str, out: Path) -> str:
    """The same encoder as one that shows its lookup tokens."""
    old = Encoder.load(encoder)
    model_args = {**old.config.model_args, "streams": ["lookup"]}
    new = Encoder.create(old.config.architecture, pixels=old.pixels, **model_args)
    weights = old.without_heads().model.state_dict()
    new.model.load_state_dict(weights)
    new.save_pretrained(out)
    return str(out)


def train(trainer: str, recipe: str, data: list[str], out: Path, settings: list[str]) -> None:
    """One run of the command line's, unless it is finished."""
    what = [f"--data={folder}" for folder in data] + [f"--set={setting}" for setting in settings]
    command = [sys.executable, "-m", "app.cli", "train", trainer, f"--recipe={recipe}", f"--out={out}", *what]
    if not (out / "finished").exists():
        print(" ".join(command[1:]), flush=True)
        subprocess.run(command, check=True)
        (out / "finished").touch()


@app.command()
def table(runs: Runs) -> None:
    """Prints what has been run, as Markdown."""
    print("| name | what | changed | cost, min | encoder | CIDEr x 100 | distinct, % | kept |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for each in ABLATIONS:
        if not (runs / each.name / "finished").exists():
            continue
        figures, minutes = result(runs / each.name)
        knows = ""
        if (runs / f"{each.name}-encoder" / "log.jsonl").exists():
            learned, more = result(runs / f"{each.name}-encoder")
            minutes += more
            measure, value = best(learned, "top1", "mAP")
            knows = f"{measure} {100 * value:.1f} %"
        scores, distinct = (
            " / ".join(f"{value:.{digits}f}" for name, value in figures.items() if name.startswith(start))
            for start, digits in (("CIDEr", 1), ("distinct", 0))
        )
        changed = ", ".join((*(each.pretraining or ()), *(each.words or ()), *each.decoder))
        cells = [f"`{each.name}`", each.subject, changed, f"{minutes:.0f}", knows, scores, distinct, "yes" * each.kept]
        print(f"| {' | '.join(cells)} |")


class Scale(NamedTuple):
    """What an encoder of classes cost and what came of it."""

    steps: float
    parameters: float  # millions
    gflops: float  # of its training; a photo takes three times its forward pass
    top1: float  # %
    cider: float  # x 100


@app.command()
def plot(runs: Runs, out: Annotated[Path, typer.Option(help="Image to write.")]) -> None:
    """Draws accuracy and CIDEr against pretraining's length and the two models' sizes; prints the points and a fit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, 3, sharex="col", sharey="row")
    print("| encoder | steps | parameters, M | training GFLOPs | top-1, % | CIDEr x 100 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for column, (names, along) in enumerate(((LENGTHS, "steps"), (ENCODERS, "parameters"))):
        points = [scale(runs, name) for name in names]
        for place, measure in zip(axes[:, column], ("top1", "cider"), strict=True):
            place.plot([getattr(point, along) for point in points], [getattr(point, measure) for point in points], "o-")
        for name, (steps, parameters, gflops, top1, scored) in zip(names, points, strict=True):
            print(f"| `{name}` | {steps} | {parameters:.2f} | {gflops:.2g} | {top1:.1f} | {scored:.1f} |")
        if along == "steps":
            fit = np.polyfit([log10(point.gflops) for point in points], [point.cider for point in points], deg=1)
    sizes = [decoder_parameters(runs / name / "captioner") for name in DECODERS]
    ciders = [cider(runs / name) for name in DECODERS]
    axes[1, 2].plot(sizes, ciders, "o-")
    for name, size, value in zip(DECODERS, sizes, ciders, strict=True):
        print(f"| the second captioner's, decoder `{name}` | | {size:.2f} | | | {value:.1f} |")
    print(f"\nCIDEr x 100 = {fit[1]:.1f} + {fit[0]:.1f} log10(training GFLOPs), over the lengths")

    for place in axes.flat:
        place.set_xscale("log")
        if place.lines:  # the points' own values say more than powers of ten
            values = place.lines[0].get_xdata()
            place.set_xticks(values, [f"{value:.2g}" if value < 100 else f"{value:,.0f}" for value in values])
            place.minorticks_off()
        place.grid(visible=True, alpha=0.3)
    axes[0, 2].set_axis_off()
    axes[0, 0].set_ylabel("top-1 of Tiny-ImageNet, %")
    axes[1, 0].set_ylabel("CIDEr x 100 on validation")
    axes[1, 0].set_xlabel(f"steps of {BATCH} photos, pretraining")
    axes[1, 1].set_xlabel("parameters of the encoder, millions")
    axes[1, 2].set_xlabel("parameters of the decoder, millions")
    figure.savefig(out, dpi=120)


def scale(runs: Runs, name: str) -> Scale:
    encoder = Encoder.load(runs / f"{name}-encoder" / "encoder").without_heads()
    before = next(each.continues for each in ABLATIONS if each.name == name)
    steps = before + read_log(runs / f"{name}-encoder" / "log.jsonl")[-1]["step"]
    forward = np.mean([encoder.gflops(budget) for budget in encoder.config.budgets])
    return Scale(
        steps=steps,
        parameters=sum(weight.numel() for weight in encoder.parameters()) / 1e6,
        gflops=3 * float(forward) * BATCH * steps,
        top1=100 * best(result(runs / f"{name}-encoder")[0], "top1")[1],
        cider=cider(runs / name),
    )


def cider(run: Path) -> float:
    return best(result(run)[0], "CIDEr")[1]


def decoder_parameters(captioner: Path) -> float:
    """Millions."""
    model = Captioner.from_pretrained(str(captioner)).model
    return sum(weight.numel() for name, weight in model.named_parameters() if not name.startswith("encoder.")) / 1e6


@app.command()
def decode(
    data_captions: Annotated[list[str], typer.Option()],
    model: Annotated[str, typer.Option(help="A captioner's folder.")],
    limit: Annotated[int | None, typer.Option(help="No more photos of each set than this.")] = None,
) -> None:
    """Compares decoding settings on the validation photos, at the default budget."""
    captioner = Captioner.from_pretrained(model)
    print("| decoding | CIDEr x 100 | distinct, % |\n| --- | --- | --- |")
    sets = [read_captions(folder, "val", limit=limit) for folder in data_captions]
    tokens = [encode(captioner, each) for each in sets]
    for settings in DECODING:
        scores, distinct = [], []
        for captions, theirs in zip(sets, tokens, strict=True):
            texts = [text for part in theirs.split(32) for text in captioner.decode(part, **settings)]
            found = score(dict(zip(captions.image_ids, texts, strict=True)), captions.references(), metrics=("CIDEr",))
            scores.append(f"{100 * found.values['CIDEr']:.1f}")
            distinct.append(f"{100 * len(set(texts)) / len(texts):.0f}")
        what = ", ".join(f"{name} {value:g}" for name, value in settings.items())
        print(f"| {what} | {' / '.join(scores)} | {' / '.join(distinct)} |", flush=True)


def encode(captioner: Captioner, captions: CaptionSet) -> torch.Tensor:
    chunks = [range(i, min(i + 64, len(captions))) for i in range(0, len(captions), 64)]
    return torch.cat([captioner.encode(captioner.preprocess([captions.image(i) for i in chunk])) for chunk in chunks])


def best(figures: dict[str, float], *measures: str) -> tuple[str, float]:
    """Of a measure's figures (`top1@3`, `top1@4`) the highest, with its name."""
    return max((pair for pair in figures.items() if pair[0].startswith(measures)), key=lambda pair: pair[1])


def result(run: Path) -> tuple[dict[str, float], float]:
    """A run's last validation figures and how many minutes it took."""
    lines = read_log(run / "log.jsonl")
    times = [line["time"] for line in lines]
    seconds = sum(after - before for before, after in pairwise(times) if after - before < PAUSE)
    return next(line for line in reversed(lines) if "loss" not in line), seconds / 60


if __name__ == "__main__":
    app()
