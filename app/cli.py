"""The `vlcap` command: every door to the rooms behind. Results on standard output, the rest on standard error.

Exit status: 0, 1 (some input failed), 2 (usage). Heavy packages are imported by the command that needs them, so that
`vlcap --help` answers at once.
"""

import atexit
import errno
import gc
import io
import itertools
import json
import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from .bench import AsJson, bench
from .printing import print_json

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Caption photos with few visual tokens; train, evaluate and compare captioners.",
)
train = typer.Typer(
    no_args_is_help=True, help="Train a classifier (the encoder), a text decoder, or a captioner of both."
)
app.add_typer(train, name="train")
app.add_typer(bench, name="bench")

PACKAGES = [Path(__file__).parents[1] / name for name in ("app", "encoders", "train", "vlcap")]

QUIET = ("attention", "export", "train")  # commands whose results are files

Item = TypeVar("Item")
Model = Annotated[str | None, typer.Option("--model", help="Captioner folder or hub id; the bundled one if left out.")]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model", help="Captioner folder or hub id; repeated, the page lets choose. The bundled one if left out."
    ),
]
Budget = Annotated[int | None, typer.Option("--budget", min=1, help="Side of the compressed grid: 5 is 25 tokens.")]
Beams = Annotated[int | None, typer.Option("--beams", min=1, help="Beams of the search; 1 is greedy.")]
Int8 = Annotated[bool, typer.Option("--int8", help="8-bit weights: faster on a CPU, a little less exact.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric", help="CIDEr, BLEU, ROUGE_L, METEOR or SPICE; may be repeated. The first three if left out."
    ),
]
Data = Annotated[str, typer.Option("--data", help="Folder of captioned photos, in COCO's, Karpathy's or parquet form.")]
TrainData = Annotated[list[str], typer.Option("--data", help="Folder of the data; repeat it to join several.")]
RunFolder = Annotated[Path, typer.Option("--out", help="Folder of the run; the same command again resumes it.")]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="A recipe's name, or a .yaml file.")]
Smoke = Annotated[
    bool,
    typer.Option(
        "--smoke", help="Shrink the recipe to seconds, in a new folder OUT/smoke-N, to check that the command works."
    ),
]
Override = Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe's; may be repeated.")]


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,  # see `main`
) -> None:
    if getattr(sys.stdout, "name", None) == os.devnull and context.invoked_subcommand not in QUIET:
        raise OSError("standard output is closed: there is nowhere to print to")


@app.command()
def caption(
    photos: Annotated[list[Path], typer.Argument(help="Files and folders.", show_default=False)],
    model: Model = None,
    budget: Budget = None,
    beams: Beams = None,
    int8: Int8 = False,
    as_json: AsJson = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Photos at a time.")] = 16,
) -> None:
    """Caption photos: one line each, in the order given. What can't be read is reported and skipped.

    In folders, hidden files are not looked at, and other files than images are counted at the end.
    """
    captioner = _load(model, int8, fastest=True)
    from torch import stack

    from vlcap.data.images import ImageError, find_images, one_line
    from vlcap.data.reading import read_batches

    budget = _known_budget(captioner, budget)
    failed = False

    def report(error: ImageError) -> None:
        nonlocal failed
        _say(str(error))
        failed = True

    found_images = find_images(photos)
    for batch in read_batches(found_images.images, captioner.read, batch_size, report):
        names, images = zip(*batch, strict=True)
        found = captioner.caption_pixels(stack(images), budget=budget, **_generation(beams))
        for name, result in zip(names, found, strict=True):
            if as_json:
                cost = {"budget": result.budget, "ms": round(result.ms, 1)}
                print_json({"image": str(name), "caption": result.text, **cost})
            else:
                print(f"{one_line(name)}: {result.text}")
        sys.stdout.flush()
    for remark in found_images.remarks():
        _say(remark)
    raise typer.Exit(1 if failed or not found_images.complete else 0)


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(help="COCO result file: [{image_id, caption}, ...]")],
    references: Annotated[Path, typer.Argument(help="COCO caption annotation file.")],
    metric: Metrics = None,
    as_json: AsJson = False,
) -> None:
    """Score any COCO result file against any COCO caption file."""
    from vlcap.data.captions import read_coco_captions, read_coco_results
    from vlcap.evaluation.metrics import DEFAULT
    from vlcap.evaluation.metrics import score as compute

    scores = compute(read_coco_results(predictions), read_coco_captions(references), metrics=metric or DEFAULT)
    _print_scores(scores.to_dict(), as_json)


@app.command()
def evaluate(
    data: Data,
    model: Model = None,
    split: Annotated[str, typer.Option(help="Which photos.")] = "test",
    budget: Budget = None,
    beams: Beams = None,
    int8: Int8 = False,
    metric: Metrics = None,
    out: Annotated[Path | None, typer.Option(help="Folder for predictions.json and metrics.json.")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="The first photos only.")] = None,
    as_json: AsJson = False,
) -> None:
    """Caption a split and score the captions against its references."""
    from vlcap.data.captions import read_captions
    from vlcap.evaluation.evaluate import WRITTEN
    from vlcap.evaluation.evaluate import evaluate as run
    from vlcap.evaluation.metrics import DEFAULT
    from vlcap.files.results import results
    from vlcap.processes import connect

    captions = read_captions(data, split, limit=limit)
    first = connect()
    with results(out if first else None, WRITTEN):
        captioner = _load(model, int8)
        report = run(
            captioner,
            captions,
            budget=_known_budget(captioner, budget),
            metrics=metric or DEFAULT,
            out=out,
            track=lambda found: _track(found, total=len(captions), what=f"captioning {captions.name} {split}"),
            **_generation(beams),
        )
    if first:
        _print_scores(report, as_json)


@app.command()
def compare(
    model: Annotated[
        list[str],
        typer.Option("--model", help="Captioner folder or hub id, NAME=FOLDER to name it; repeat it for each."),
    ],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the results; predictions that it holds are not made anew.")],
    split: Annotated[str, typer.Option(help="Which photos.")] = "test",
    budget: Annotated[
        list[int] | None,
        typer.Option("--budget", min=1, help="Sides of the grid; repeat it. Left out: those each was trained for."),
    ] = None,
    beams: Beams = None,
    photos: Annotated[int, typer.Option(min=0, help="Photos of the split to put into the page, captioned.")] = 0,
    limit: Annotated[int | None, typer.Option(min=2, help="The first photos only.")] = None,
) -> None:
    """Compare captioners and token budgets: CIDEr against what it costs, as a table, CSV, JSON and a web page."""
    from vlcap.data.captions import read_captions
    from vlcap.evaluation.compare import compare as run
    from vlcap.evaluation.compare import contender
    from vlcap.evaluation.page import WRITTEN
    from vlcap.files.results import results

    captions = read_captions(data, split, limit=limit)
    with results(out, WRITTEN):
        contenders = [
            contender(name, captioner, budget if captioner.model.encoder.has_choice else None)
            for name, captioner in map(_named, model)
        ]
        found = run(contenders, captions, out, track=_track, **_generation(beams))
        _write_comparison(found, captions, out, photos)


@app.command()
def attention(
    photo: Annotated[Path, typer.Argument(help="A photo.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write: .png, .svg, .pdf.")],
    model: Model = None,
    budget: Annotated[
        list[int] | None,
        typer.Option("--budget", min=1, help="Side of the grid, a row for each; repeat it. Left out: the model's own."),
    ] = None,
    each_token: Annotated[bool, typer.Option("--each-token", help="A row per token, not their mean.")] = False,
) -> None:
    """Draw what each block of the encoder gathered from, over a photo."""
    from vlcap.attention import draw_maps
    from vlcap.data.images import load_image
    from vlcap.files.results import check_picture

    metadata = check_picture(out)
    image = load_image(photo)
    captioner = _load(model)
    for each in budget or []:
        _known_budget(captioner, each)
    draw_maps(captioner, image, budget or [None], each_token).savefig(out, dpi=150, metadata=metadata)


@app.command()
def baselines(
    data: Data,
    split: Annotated[str, typer.Option(help="Which photos.")] = "test",
    constant: Annotated[
        str | None,
        typer.Option(help="The caption given to every photo; the one most frequent in the train split if left out."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What to read a score against: a person's caption, and the same caption for every photo."""
    from vlcap.data.captions import CaptionDataError, read_captions
    from vlcap.evaluation.baselines import score_constant, score_human, usual_caption

    captions = read_captions(data, split)
    try:
        text = constant if constant is not None else usual_caption(read_captions(data, "train"))
    except CaptionDataError as error:
        raise CaptionDataError(
            f"{error}. Without --constant TEXT, it is the most frequent caption of the train split"
        ) from None
    found = {
        "a person's first caption, against the others": score_human(captions),
        f'always "{text}"': score_constant(captions, text),
    }
    if as_json:
        print_json({name: scores.to_dict() for name, scores in found.items()}, indent=2)
        return
    for name, scores in found.items():
        print(name)
        _print_scores(scores.to_dict(), as_json)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Folder for encoder.onnx, decoder.onnx and what they need.")],
    model: Model = None,
    budget: Budget = None,
    int8: Int8 = False,
) -> None:
    """Export a captioner to ONNX, for machines without PyTorch: vlcap/export/onnx_captioner.py captions with it."""
    from vlcap.export.onnx_export import WRITTEN, check_packages, export_onnx
    from vlcap.files.results import results

    check_packages()
    with results(folder, WRITTEN):
        captioner = _load(model)
        export_onnx(captioner, folder, _known_budget(captioner, budget), int8)
    _say(f"written to {folder}; python -m vlcap.export.onnx_captioner {folder} PHOTO captions with it")


@app.command()
def encoders(
    pattern: Annotated[str, typer.Argument(help="Which, by name with wildcards: 'lookupvit_*'.")] = "*",
    as_json: AsJson = False,
) -> None:
    """List the encoders: token budgets, parameters, GFLOPs (2 x MACs) per photo at each budget."""
    from encoders.registry import describe_encoders

    rows = list(_track(describe_encoders(pattern), total=None, what="counting"))
    if as_json:
        print_json(rows, indent=2)
        return
    from rich.console import Console
    from rich.table import Table

    title = (
        "GFLOPs = 2 x MACs per photo; a budget of 5 is a grid of 5 x 5 = 25 tokens; "
        "in parentheses, products in the paper's order"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("encoder", no_wrap=True)
    table.add_column("pixels", justify="right")
    table.add_column("parameters", justify="right")
    table.add_column("budget: GFLOPs")
    for row in sorted(rows, key=lambda row: row["params"]):
        paper = row.get("gflops_paper_order", {})
        costs = "   ".join(
            f"{budget}: {gflops:.3g}" + (f" ({paper[budget]:.3g})" if budget in paper else "")
            for budget, gflops in row["gflops"].items()
        )
        table.add_row(row["name"], str(row["image_size"]), f"{row['params'] / 1e6:.1f} M", costs)
    Console().print(table)


@train.command()
def classifier(
    data: TrainData,
    out: RunFolder,
    recipe: RecipeName = None,
    set_: Override = None,
    init_from: Annotated[
        str | None,
        typer.Option(help="A timm ViT whose weights the ViT parts start from: its name, or local-dir:FOLDER."),
    ] = None,
    smoke: Smoke = False,
) -> None:
    """Train an encoder to classify; OUT/encoder is what the captioner reads with."""
    from train.classifier import ClassifierRecipe, train_classifier

    overrides = [*(set_ or []), *([f"init_from={init_from}"] if init_from else [])]
    train_classifier(*_run(ClassifierRecipe, recipe, overrides, data, out, smoke))


@train.command()
def decoder(
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            help="Captions: a COCO caption file, a .txt of one per line (also .gz), or a folder of captioned "
            "photos; repeat it to join several.",
        ),
    ],
    out: RunFolder,
    hold_out: Annotated[
        list[str] | None,
        typer.Option(help="Captioned photos whose val and test sentences are not learned; val judges the run."),
    ] = None,
    recipe: RecipeName = None,
    set_: Override = None,
    smoke: Smoke = False,
) -> None:
    """Train a decoder on captions without photos; OUT/decoder is what `train captioner --set decoder=` starts from."""
    from train.decoder import DecoderRecipe, train_decoder

    overrides = [*(set_ or []), *([f"hold_out={json.dumps(hold_out)}"] if hold_out else [])]
    train_decoder(*_run(DecoderRecipe, recipe, overrides, data, out, smoke))


@train.command()
def captioner(
    data: TrainData,
    out: RunFolder,
    encoder: Annotated[str | None, typer.Option(help="Folder of a trained encoder: RUN/encoder.")] = None,
    recipe: RecipeName = None,
    set_: Override = None,
    smoke: Smoke = False,
) -> None:
    """Train a decoder on a frozen encoder's tokens; OUT/captioner is what `vlcap caption --model` takes."""
    from train.captioner import CaptionerRecipe, train_captioner

    overrides = [*(set_ or []), *([f"encoder={encoder}"] if encoder else [])]
    train_captioner(*_run(CaptionerRecipe, recipe, overrides, data, out, smoke))


DataClasses = Annotated[
    list[str] | None,
    typer.Option(help="Labelled photos, as `vlcap train classifier` takes them; repeat to join several."),
]
DataCaptions = Annotated[list[str], typer.Option(help="Folder of captioned photos; repeat to join several.")]
Rows = Annotated[
    list[str] | None, typer.Option("--row", help="Row to train and compare; repeat for several. Default: all rows.")
]
PagePhotos = Annotated[int, typer.Option("--photos", min=0, help="Number of photos to show in the page.")]


@train.command()
def study(
    recipe: Annotated[str, typer.Option("--recipe", help="Name of a study recipe, or path of a .yaml file.")],
    data_captions: DataCaptions,
    out: RunFolder,
    data_classes: DataClasses = None,
    row: Rows = None,
    set_: Override = None,
    photos: PagePhotos = 0,
    smoke: Smoke = False,
) -> None:
    """Train the rows of a study and compare them. Results: OUT/comparison and OUT/stages.md."""
    _study("study", recipe, data_classes, data_captions, out, row, set_, photos, smoke)


@train.command()
def table3(
    data_captions: DataCaptions,
    out: RunFolder,
    data_classes: DataClasses = None,
    recipe: Annotated[str, typer.Option("--recipe", help="small, gpu, paper, or path of a .yaml file.")] = "small",
    row: Rows = None,
    set_: Override = None,
    photos: PagePhotos = 0,
    smoke: Smoke = False,
) -> None:
    """Train every encoder alike and a decoder on each, and compare them: the study of the paper's Table 3."""
    _study("table3", recipe, data_classes, data_captions, out, row, set_, photos, smoke)


def _study(
    kind: str,
    name: str,
    classes: list[str] | None,
    captions: list[str],
    out: Path,
    rows: list[str] | None,
    overrides: list[str] | None,
    photos: int,
    small: bool,
) -> None:
    """Runs a study; `kind` is the first part of its recipe's file name."""
    from contextlib import ExitStack

    from train.study import train_study
    from train.study_recipe import StudyRecipe
    from vlcap.evaluation.page import WRITTEN
    from vlcap.files.results import results
    from vlcap.files.writing import fresh_folder

    _no_loading_bars()
    loaded = _recipe(StudyRecipe, name, overrides or [], smoke=small, prefix=kind)
    if small:
        out = fresh_folder(out, "smoke")
        _say(f"smoke run in {out}, which may be deleted afterwards")
    with ExitStack() as stack:
        for folder in loaded.comparisons(captions):  # before hours of training: may they be written?
            stack.enter_context(results(out / folder, WRITTEN))
        for found in train_study(loaded, classes or [], captions, out, rows=rows, track=_track):
            _write_comparison(found.comparison, found.captions, found.folder, photos)
        _say(f"stages are in {out / 'stages.md'}")


@app.command()
def demo(
    model: Models = None,
    port: Annotated[int | None, typer.Option(help="Port; a free one from 7860 if left out.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets the network in.")] = "127.0.0.1",
    share: Annotated[bool, typer.Option("--share", help="A public link, through a server of Gradio's.")] = False,
) -> None:
    """Open the web page: a photo in, a caption out, and what lay behind it."""
    from app.demo import serve

    names: list[str | None] = [*model] if model else [None]
    serve([_load(name) for name in names], port=port, host=host, share=share)


def _load(model: str | None, int8: bool = False, fastest: bool = False) -> Any:
    """`fastest` takes the device's fastest numbers; scores are made with float32, to be the same everywhere."""
    gc.disable()  # imports make a million objects and no garbage: looking for it would take a seventh of the time
    try:
        from torch import float32

        from vlcap.captioner import Captioner

        _no_loading_bars()
        return Captioner.from_pretrained(model, int8=int8, dtype=None if fastest else float32)
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # or libraries would complain at the end of what they had left in cycles


def _no_loading_bars() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()  # the weights are read in a blink


def _named(model: str) -> tuple[str, Any]:
    """NAME=FOLDER, or a folder called by its own name, or where that is "captioner" by its run's.

    What exists is a folder, whatever its name holds, and so is what has a slash before the equals sign.
    """
    from vlcap.data.images import one_line

    name, equals, source = model.partition("=")
    if equals and not source:
        raise typer.BadParameter(f"--model {model}: an empty name: is a shell's variable unset?")
    if not equals or "/" in name or Path(model).exists():
        path = Path(model)
        name, source = (path.resolve().parent.name if path.name == "captioner" else path.name), model
    return one_line(name), _load(source)


def _write_comparison(found: Any, captions: Any, out: Path, photos: int) -> None:
    from rich.console import Console

    from vlcap.evaluation.page import table, write_all

    write_all(found, captions, out, photos)
    Console().print(table(found))
    _say(f"see {out / 'comparison.html'}")


def _run(kind: Any, name: str | None, overrides: list[str], data: list[str], out: Path, small: bool) -> tuple:
    from train.smoke import smoke

    _no_loading_bars()
    recipe = _recipe(kind, name, overrides)
    if small:
        recipe, out = smoke(recipe, out)
        _say(f"smoke run in {out.parent}, which may be deleted afterwards")
    return recipe, data, out


def _recipe(kind: Any, name: str | None, overrides: list[str], **options: Any) -> Any:
    from train.recipe import RecipeError

    try:
        return kind.load(name, overrides, **options)
    except RecipeError as error:
        raise typer.BadParameter(str(error)) from error


def _known_budget(captioner: Any, budget: int | None) -> int | None:
    if budget is not None and budget not in captioner.budgets:
        trained = ", ".join(map(str, captioner.budgets))
        _say(f"warning: {captioner.name} was trained for budgets {trained}, not {budget}: its captions will be worse")
    return budget


def _generation(beams: int | None) -> dict[str, int]:
    return {} if beams is None else {"num_beams": beams}


def _print_scores(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(report, indent=2)
        return
    for name in itertools.takewhile(lambda name: name != "N", report):  # the scores come before N
        print(f"{name:8} {report[name] * 100:6.2f}   (x 100, N = {report['N']})")


def _track(items: Iterable[Item], total: int | None, what: str) -> Iterable[Item]:
    from rich.console import Console
    from rich.progress import track

    return track(items, description=what, total=total, console=Console(file=sys.stderr), transient=True)


def _say(message: str) -> None:
    print(f"vlcap: {message}", file=sys.stderr)


def main() -> None:
    """The entry point: an error is one line, unless --debug, wherever it stands, asks for all of it."""
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ["VLCAP_DEBUG"] = "1"
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed: the next file that is opened would take its place
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - until the end
    for stream in (sys.stdout, sys.stderr):  # a file's name may have no letters in the terminal's alphabet, or in any
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _warn
    try:
        _refuse_empty(sys.argv[1:])
        try:
            app()
        finally:
            sys.stdout.flush()  # now, while somebody can still say that there is no room for it
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # BaseException: what a panic in a library written in Rust is
        if os.environ.get("VLCAP_DEBUG"):
            raise
        if not isinstance(error, BrokenPipeError):  # who reads no further needs no telling
            _say(_reason(error))
        _give_up_unwritten()
        sys.exit(getattr(error, "exit_status", 1))


def _refuse_empty(arguments: list[str]) -> None:
    """An empty name would mean the current folder, or no option at all: most often a shell's variable is unset."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, value = argument.partition("=") if argument.startswith("--") else (before, "=", argument)
        if equals and not value and option != "--constant":  # a caption may be empty
            _say(f"an empty name{f' for {option}' if option.startswith('-') else ''}: is a shell's variable unset?")
            sys.exit(2)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """Our own warnings are one line for a person; those of libraries are shown as Python does."""
    if category is UserWarning and any(Path(filename).is_relative_to(folder) for folder in PACKAGES):
        _say(f"warning: {message}")
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=sys.stderr)


def _reason(error: BaseException) -> str:
    """One line for a person."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    if "Original Traceback" in text:  # of a process that loads photos: its last line is the error's own
        text = text.splitlines()[-1].partition(": ")[2] or text.splitlines()[-1]
    text = " ".join(text.split())
    if getattr(error, "errno", None) == errno.ENOSPC:
        text += ": make room on the disk"
    expected = isinstance(error, (ValueError, OSError)) or type(error).__module__.split(".")[0] in (
        "vlcap",
        "train",
        "encoders",
    )
    return text if expected else f"{type(error).__name__}: {text} (--debug shows where)"


def _give_up_unwritten() -> None:
    """What standard output doesn't take would be tried again, and complained about, at the very end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
