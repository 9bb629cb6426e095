"""`vlcap export` and `vlcap encoders`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from app import loading
from app.options import AsJson, Model
from app.printing import print_json, say, track


def export(
    folder: Annotated[Path, typer.Argument(help="Folder for the graphs and the files they need.")],
    model: Model = None,
    budget: Annotated[
        list[int] | None,
        typer.Option(
            "--budget", min=1, help="Side of the grid; repeat for several. Default: those it was trained for."
        ),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="8-bit weights and arithmetic in linear layers, for CPUs that are fast at it."),
    ] = False,
    web: Annotated[
        bool, typer.Option("--web", help="Write a static web page that captions in the browser, for any web server.")
    ] = False,
    runtime: Annotated[
        Path | None,
        typer.Option(
            "--runtime",
            help="With --web: folder of the unpacked npm package onnxruntime-web. Default: npm fetches it, once.",
        ),
    ] = None,
) -> None:
    """Export a captioner to ONNX for machines without PyTorch. `python -m vlcap.exported` runs it.

    With --web, the folder is a web page that needs no server of its own.
    """
    if web:
        _export_page(folder, model, budget, int8, runtime)
        return
    if runtime is not None:
        raise typer.BadParameter("--runtime needs --web: only the web page has ONNX Runtime for browsers")
    from vlcap.export.graphs import export_graphs, files_of
    from vlcap.files.results import results

    with ExitStack() as writing:
        writing.enter_context(results(folder, files_of(budget or [])))  # before a model is loaded
        captioner = loading.load(model, "pytorch")
        budgets = list(dict.fromkeys(budget or captioner.budgets))
        for each in budgets:
            loading.check_budget(captioner, each)
        writing.enter_context(results(folder, files_of(budgets)))
        export_graphs(
            captioner.engine,
            folder,
            budgets,
            int8=int8,
            track=lambda graphs: track(graphs, total=len(budgets) + 1, what="exporting"),
        )
    say(f"written to {folder}; caption with it: python -m vlcap.exported {folder} PHOTO")


def _export_page(folder: Path, model: str | None, budget: list[int] | None, int8: bool, runtime: Path | None) -> None:
    """Writes the static web page. The folder is checked before anything is fetched, and all that before any export."""
    from vlcap.export.runtime import runtime_folder
    from vlcap.export.site import CARD, KIND, About, Example, write_site
    from vlcap.files.writing import check_replaceable

    check_replaceable(folder, KIND)

    found = runtime_folder(runtime)
    captioner = loading.load(model, "onnx", int8=int8)
    budgets = list(dict.fromkeys(budget or captioner.budgets))
    if unknown := sorted({*budgets} - {*captioner.budgets}):
        trained = ", ".join(map(str, captioner.budgets))
        raise typer.BadParameter(f"--budget {unknown[0]}: the web page has the budgets of its training, {trained}")
    from app.demo.example_photos import free_examples
    from app.demo.judged import judged

    card = loading.folder_of(model) / CARD
    about = About(
        name="" if captioner.is_bundled else captioner.name,
        judged=judged(captioner),
        card=card if card.is_file() else None,
        examples=[Example(each.name, each.source, path) for each, path in free_examples()],
    )
    size = write_site(folder, captioner.engine, found, budgets, about)
    say(f"written to {folder}: a browser loads {size / 1e6:.1f} MB; look at it: python -m http.server -d {folder}")


def encoders(
    pattern: Annotated[str, typer.Argument(help="Names to list, with wildcards: 'lookupvit_*'.")] = "*",
    as_json: AsJson = False,
) -> None:
    """List the encoders: token budgets, parameters, and GFLOPs (2 x MACs) per photo at each budget."""
    from encoders.registry import describe_encoders

    rows = list(track(describe_encoders(pattern), total=None, what="counting"))
    if as_json:
        print_json(rows, indent=2)
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    title = (
        "GFLOPs = 2 x MACs per photo or clip. A budget of 5 is a grid of 5 x 5 = 25 tokens. "
        "In parentheses: GFLOPs with the products in the paper's order. "
        "After a slash: GFLOPs without the trunk. "
        "Last: what the encoder's paper says, as 2 x MACs."
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)  # names and costs on one line of 80 letters
    table.add_column("encoder", no_wrap=True)
    table.add_column("px", justify="right", no_wrap=True)
    table.add_column("weights", justify="right", no_wrap=True)
    table.add_column("budget: GFLOPs", no_wrap=True)
    table.add_column("paper")
    for row in sorted(rows, key=lambda row: row["params"]):
        paper, bare = row.get("gflops_paper_order", {}), row.get("gflops_without_trunk", {})
        costs = "\n".join(
            f"{budget}: {gflops:.3g}"
            + (f" ({paper[budget]:.3g})" if budget in paper else "")
            + (f" / {bare[budget]:.3g}" if budget in bare else "")
            for budget, gflops in row["gflops"].items()
        )
        published = ", ".join(map(str, row.get("gflops_paper", {}).values()))
        table.add_row(row["name"], str(row["image_size"]), f"{row['params'] / 1e6:.1f} M", costs, published)
    Console().print(table)
