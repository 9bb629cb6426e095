"""The experiments of docs/experiments.md: runs ablations that are not there yet, prints their table; decodes.

    python docs/experiments.py run --data-classes DIR --data-captions DIR --data-captions DIR --runs RUNS [NAME ...]
    python docs/experiments.py table --runs RUNS
    python docs/experiments.py decode --model RUN/captioner --data-captions DIR --data-captions DIR

An ablation is an ordinary run of `vlcap train` with one setting of a shared base changed; stopped at any point, the
same command goes on from there. Those of the decoder read the tokens of the bundled captioner's encoder; those of the
encoder train a new one and then the base's decoder on it.
"""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer

from train.progress import read_log
from vlcap.captioner import Captioner
from vlcap.captions import CaptionSet, read_captions
from vlcap.encoder import Encoder
from vlcap.metrics import score

DECODER = ["epochs=6", "ema_decay=0.99", "evaluate_every=6"]  # of captioner-mini
ENCODER = ["steps=500", "schedule=cosine", "ema_decay=0", "evaluate_every=100", "val_limit=2000"]  # of tiny-imagenet
PAUSE = 300  # seconds without a line in a log: the run was interrupted


class Ablation(NamedTuple):
    """One setting, or two that belong together, changed."""

    name: str
    subject: str
    decoder: tuple[str, ...] = ()
    encoder: tuple[str, ...] | None = None  # None: the bundled captioner's encoder as it is
    lookup: bool = False  # read the lookup tokens


ABLATIONS = [
    Ablation("base", "decoder of the bundled encoder: base, seed 0"),
    Ablation("base-seed1", "the same, seed 1", ("seed=1",)),
    Ablation("base-seed2", "the same, seed 2", ("seed=2",)),
    Ablation("width128", "width", ("width=128",)),
    Ablation("width384", "width", ("width=384", "heads=6")),
    Ablation("layers1", "depth", ("layers=1",)),
    Ablation("layers4", "depth", ("layers=4",)),
    Ablation("dropout0", "dropout", ("dropout=0",)),
    Ablation("dropout3", "dropout", ("dropout=0.3",)),
    Ablation("vocab1000", "vocabulary", ("vocab_size=1000",)),
    Ablation("vocab6000", "vocabulary", ("vocab_size=6000",)),
    Ablation("cased", "lower-casing", ("lowercase=false",)),
    Ablation("smoothing0", "label smoothing", ("smoothing=0",)),
    Ablation("smoothing2", "label smoothing", ("smoothing=0.2",)),
    Ablation("views4", "augmented views", ("cache_views=4",)),
    Ablation("captions1", "captions per photo", ("captions_per_photo=1",)),
    Ablation("captions2", "captions per photo", ("captions_per_photo=2",)),
    Ablation("decay0", "weight decay", ("weight_decay=0",)),
    Ablation("decay3", "weight decay", ("weight_decay=0.3",)),
    Ablation("no-ema", "averaged weights", ("ema_decay=0",)),
    Ablation("ema999", "averaged weights", ("ema_decay=0.999",)),
    Ablation("batch32", "batch", ("batch_size=32",)),
    Ablation("lr5e-4", "learning rate", ("lr=5e-4",)),
    Ablation("lr2e-3", "learning rate", ("lr=2e-3",)),
    Ablation("budget3", "budget", ("budgets=[3]",)),
    Ablation("budget5", "budget", ("budgets=[5]",)),
    Ablation("budget7", "budget", ("budgets=[7]",)),
    Ablation("lookup", "lookup tokens", ("budgets=[5]",), lookup=True),
    Ablation("encoder", "encoder of 500 steps: base, seed 0", encoder=()),
    Ablation("single", "one resolution", ("budgets=[5]",), ("budgets=[4]",)),
    Ablation("patch16", "patch of 16", encoder=("model_args={patch_size: 16}",)),
    Ablation("patch4", "patch of 4", encoder=("model_args={patch_size: 4, img_size: 48}",)),
    Ablation("light1", "AugReg light1", encoder=("mixup=0.2", "auto_augment=rand-n2-m0")),
    Ablation("medium1", "AugReg medium1", encoder=("mixup=0.2", "auto_augment=rand-n2-m15")),
    Ablation("strong1", "AugReg strong1", encoder=("mixup=0.5", "auto_augment=rand-n2-m20")),
]
DECODING: list[dict[str, Any]] = [
    {"num_beams": beams, "repetition_penalty": penalty, "length_penalty": length}
    for beams, penalty, length in (
        (1, 1.0, 1.0), (4, 1.0, 1.0), (2, 1.4, 1.0), (3, 1.4, 1.0), (4, 1.2, 1.0), (4, 1.4, 1.0), (4, 1.6, 1.0),
        (4, 1.8, 1.0), (4, 2.0, 1.0), (5, 1.4, 1.0), (5, 1.8, 1.0), (4, 1.4, 0.0), (4, 1.4, 0.5), (4, 1.4, 1.5))
]
app = typer.Typer(add_completion=False)
Runs = Annotated[Path, typer.Option(help="Folder of the runs.")]


@app.command()
def run(
        data_classes: Annotated[str, typer.Option()],
        data_captions: Annotated[list[str], typer.Option()],
        runs: Runs,
        encoder: Annotated[
            str, typer.Option(help="What the decoder's ablations read.")] = "runs/caption-words-96/encoder",
        names: Annotated[list[str] | None, typer.Argument()] = None,
) -> None:
    """Runs these ablations, or all."""
    for each in ABLATIONS:
        if names and each.name not in names:
            continue
        reads = encoder
        if each.encoder is not None:
            pretrained = runs / f"{each.name}-encoder"
            train("classifier", "tiny-imagenet", [data_classes], pretrained, [*ENCODER, *each.encoder])
            reads = str(pretrained / "encoder")
        if each.lookup:
            reads = show_lookup_tokens(reads, runs / f"{each.name}-encoder")
        settings = [f"encoder={reads}", *DECODER, *each.decoder]
        train("captioner", "captioner-mini", data_captions, runs / each.name, settings)


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
    print("| name | what | changed | cost, min | top-1, % | CIDEr x 100 | distinct, % |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for each in ABLATIONS:
        if not (runs / each.name / "finished").exists():
            continue
        figures, minutes = result(runs / each.name)
        top1 = ""
        if each.encoder is not None:
            pretraining, more = result(runs / f"{each.name}-encoder")
            minutes += more
            top1 = f"{100 * max(value for name, value in pretraining.items() if name.startswith('top1')):.1f}"
        scores, distinct = (
            " / ".join(f"{value:.{digits}f}" for name, value in figures.items() if name.startswith(start))
            for start, digits in (("CIDEr", 1), ("distinct", 0)))
        changed = ", ".join((*(each.encoder or ()), *each.decoder))
        print(f"| `{each.name}` | {each.subject} | {changed} | {minutes:.0f} | {top1} | {scores} | {distinct} |")


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


def result(run: Path) -> tuple[dict[str, float], float]:
    """A run's last validation figures and how many minutes it took."""
    lines = read_log(run / "log.jsonl")
    times = [line["time"] for line in lines]
    seconds = sum(after - before for before, after in pairwise(times) if after - before < PAUSE)
    return next(line for line in reversed(lines) if "loss" not in line), seconds / 60


if __name__ == "__main__":
    app()
