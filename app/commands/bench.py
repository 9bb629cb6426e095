"""`vlcap bench`: speed against peers, as tables on standard output and as JSON and a plot in a folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from app.options import AsJson
from app.printing import print_json

bench = typer.Typer(
    invoke_without_command=True,
    help="Measure speed against peers in one process. Without a name: everything except train, onnx, peers and gpu.",
)

Quick = Annotated[bool, typer.Option("--quick", help="Quick run: fewer rounds and cases, not for figures to quote.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for bench.json and sizes.png.")]


@bench.callback()
def everything(context: typer.Context, quick: Quick = False, out: Out = None, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        from vlcap.bench.benchmark import PARTS

        # Exporting takes minutes, and not every machine has a GPU.
        _measure([part for part in PARTS if part not in ("onnx", "peers", "gpu")], quick, out, as_json)


def _command(part: str) -> Callable[..., None]:
    def measure(quick: Quick = False, out: Out = None, as_json: AsJson = False) -> None:
        _measure([part], quick, out, as_json)

    return measure


for part, what in {
    "startup": "Time and memory from the shell to a caption, against importing PyTorch.",
    "encoder": "Encoders against ViT-B/16, float32 and int8.",
    "decoder": "Decoding against Hugging Face's generate, and against the limit of memory bandwidth.",
    "caption": "Whole captions against ViT-B/16 with GPT-2.",
    "peers": "Whole captions against vit-gpt2, BLIP-base, GIT-base and SmolVLM-256M.",
    "folder": "A folder of photos: ONNX Runtime against PyTorch, and reading, encoding and decoding alone.",
    "demo": "From a photo to its whole caption, as the web page does it: ONNX Runtime against PyTorch.",
    "sizes": "Time and memory as images grow, against ViT-B/16.",
    "threads": "ONNX Runtime with 1, 2 and 4 threads.",
    "onnx": "Encoder, decoding and captions with ONNX Runtime, against PyTorch.",
    "gpu": "Encoders and whole captions on a GPU, in bfloat16, also compiled.",
}.items():
    bench.command(part, help=what)(_command(part))


@bench.command()
def train(
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or .yaml file of a recipe; repeat for several. Default: tiny-imagenet, captioner-mini."
        ),
    ] = None,
    processes: Annotated[
        list[int] | None, typer.Option(min=1, help="Number of processes; repeat for several. Default: 1 and 2.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Batch size over all processes.")] = None,
    steps: Annotated[int, typer.Option(min=21, help="Steps per run; the first 20 are not counted.")] = 60,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """The trainers of classifiers and captioners with one and more processes, and the token cache against memory."""
    from train.benchmark import RECIPES, bench_cache, bench_training
    from vlcap.bench.machine import machine
    from vlcap.files.results import results

    with results(out, ("bench.json",)):
        runs = bench_training(recipe or list(RECIPES), processes or [1, 2], batch_size, steps)
        _show({"machine": machine(), "trainers": runs, "token cache": bench_cache()}, out, as_json)


def _measure(parts: list[str], quick: bool, out: Path | None, as_json: bool) -> None:
    from rich.console import Console
    from rich.progress import track

    from vlcap.bench.benchmark import plot_sizes, run
    from vlcap.bench.machine import machine
    from vlcap.files.results import results

    report: dict[str, Any] = {"machine": machine()}
    with results(out, ("bench.json", "sizes.png") if "sizes" in parts else ("bench.json",)):
        for part in track(parts, description="measuring", console=Console(stderr=True), transient=True):
            report[part] = run(part, quick)
        _show(report, out, as_json)
        if out and "sizes" in report:
            plot_sizes(report["sizes"], out / "sizes.png")


def _show(report: dict[str, Any], out: Path | None, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    if out:
        (out / "bench.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(report, indent=2)
        return
    for part, rows in report.items():
        if part == "machine":
            continue
        table = Table(title=part, title_justify="left")
        for column in rows[0]:
            if column != "against":
                named = column == "what"
                table.add_column(column.replace("_", " "), justify="left" if named else "right", no_wrap=named)
        for row in rows:
            table.add_row(*(_cell(column, value) for column, value in row.items() if column != "against"))
        Console().print(table)
    print(
        ", ".join(
            f"{name} {value:.0f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in report["machine"].items()
        )
    )


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column.startswith("of_"):
        return f"{value:.0%}"
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return str(value)
