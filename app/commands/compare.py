"""`vlcap compare`: captioners and token budgets side by side."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app import loading
from app.options import Beams, Corruption, CorruptionSize, Data, Limit, PagePhotos, Severity, Split
from app.parsing import choose_corruptions, parse_predictions
from app.printing import say, track


def compare(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the results. Predictions already in it are reused.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Captioner folder, hub id, or bundled; NAME=FOLDER gives it a name. hf:ID or hf:FOLDER is a "
            "third-party captioner: vit-gpt2, BLIP, GIT. Repeat for each model.",
        ),
    ] = None,
    predictions: Annotated[
        list[str] | None,
        typer.Option(
            "--predictions",
            help="NAME=FILE or NAME=FILE:GFLOPS: captions that another program has written, a COCO result file, and "
            "what a photo costs there, 2 x MACs. Repeat for each file.",
        ),
    ] = None,
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
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Also score the captions of corrupted photos, as ImageNet-C's.")
    ] = False,
    corruption: Corruption = None,
    severity: Severity = None,
    corruption_size: CorruptionSize = 224,
) -> None:
    """Compare captioners and token budgets: CIDEr against cost, as a table, CSV, JSON and a web page."""
    from vlcap.data.captions import read_captions
    from vlcap.evaluation.compare import Predictions, contender, has_choice
    from vlcap.evaluation.compare import compare as run
    from vlcap.evaluation.corrupted import WRITTEN as CORRUPTED
    from vlcap.evaluation.page import WRITTEN
    from vlcap.files.results import results

    damage = choose_corruptions(corruptions, corruption, severity, corruption_size)
    if corruptions and not model:
        raise typer.BadParameter("--corruptions needs a captioner that can run: give one with --model")
    foreign = [Predictions(*parse_predictions(each)) for each in predictions or []]
    captions = read_captions(data, split, limit=limit)
    with results(out, (*WRITTEN, *(CORRUPTED if corruptions else ()))):
        contenders = [
            contender(name, captioner, budget if has_choice(captioner) else None, image_size=size)
            for name, captioner in map(loading.load_named, model or [])
            for size in image_size or (None,)
        ]
        found = run([*contenders, *foreign], captions, out, track=track, **loading.search_settings(beams))
        write_comparison(found, captions, out, photos)
        if corruptions:
            _corrupt(contenders, captions, out, *damage, corruption_size, found.setting, loading.search_settings(beams))


def _corrupt(
    contenders: Any,
    captions: Any,
    out: Path,
    names: tuple[str, ...],
    severities: tuple[int, ...],
    size: int,
    setting: dict[str, Any],
    search: dict[str, int],
) -> None:
    """The captioners under corruption. Captions of other programs are of clean photos alone: no rows here."""
    from rich.console import Console

    from vlcap.evaluation.corrupted import compare_corrupted, corrupted_table, write_corrupted

    rows = compare_corrupted(contenders, captions, out, names, severities, size, track=track, **search)
    settings = {key: setting[key] for key in ("data", "split", "N", "generation", "versions")}
    settings |= {"corruptions": names, "severities": severities, "corruption_size": size}
    write_corrupted(rows, settings, out)
    Console().print(corrupted_table(rows, settings))


def write_comparison(found: Any, captions: Any, out: Path, photos: int) -> None:
    """Writes the comparison's files and prints its table."""
    from rich.console import Console

    from vlcap.evaluation.page import table, write_all

    write_all(found, captions, out, photos)
    Console().print(table(found))
    say(f"see {out / 'comparison.html'}")
