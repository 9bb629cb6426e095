"""`vlcap compare`: captioners and token budgets side by side."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app import loading
from app.options import Beams, Data, Limit, PagePhotos, Split
from app.printing import say, track


def compare(
    model: Annotated[
        list[str],
        typer.Option("--model", help="Captioner folder or hub id; NAME=FOLDER gives it a name. Repeat for each model."),
    ],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the results. Predictions already in it are reused.")],
    split: Split = "test",
    budget: Annotated[
        list[int] | None,
        typer.Option(
            "--budget", min=1, help="Side of the grid; repeat for several. Default: those each model was trained for."
        ),
    ] = None,
    image_size: Annotated[
        list[int] | None,
        typer.Option(
            "--image-size",
            min=1,
            help="Side of the photos in pixels; repeat for several. Default: that of each model. Positional embeddings "
            "are resampled.",
        ),
    ] = None,
    beams: Beams = None,
    photos: PagePhotos = 0,
    limit: Limit = None,
) -> None:
    """Compare captioners and token budgets: CIDEr against cost, as a table, CSV, JSON and a web page."""
    from vlcap.data.captions import read_captions
    from vlcap.evaluation.compare import compare as run
    from vlcap.evaluation.compare import contender
    from vlcap.evaluation.page import WRITTEN
    from vlcap.files.results import results

    captions = read_captions(data, split, limit=limit)
    with results(out, WRITTEN):
        contenders = [
            contender(name, captioner, budget if captioner.facts.has_choice else None, image_size=size)
            for name, captioner in map(loading.load_named, model)
            for size in image_size or (None,)
        ]
        found = run(contenders, captions, out, track=track, **loading.search_settings(beams))
        write_comparison(found, captions, out, photos)


def write_comparison(found: Any, captions: Any, out: Path, photos: int) -> None:
    """Writes the comparison's files and prints its table."""
    from rich.console import Console

    from vlcap.evaluation.page import table, write_all

    write_all(found, captions, out, photos)
    Console().print(table(found))
    say(f"see {out / 'comparison.html'}")
