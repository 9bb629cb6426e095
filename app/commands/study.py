"""`vlcap train study` and `vlcap train table3`: rows of trainings, all compared."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from app.loading import hide_loading_bars
from app.options import Override, PagePhotos, RunFolder, Smoke
from app.printing import say, track

from .compare import write_comparison
from .train import load_recipe

DataClasses = Annotated[
    list[str] | None,
    typer.Option(help="Labeled photos, as `vlcap train classifier` takes them; repeat to join several."),
]
DataCaptions = Annotated[list[str], typer.Option(help="Folder of captioned photos; repeat to join several.")]
Rows = Annotated[
    list[str] | None, typer.Option("--row", help="Row to train and compare; repeat for several. Default: all rows.")
]


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
    _run("study", recipe, data_classes, data_captions, out, row, set_, photos, smoke)


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
    _run("table3", recipe, data_classes, data_captions, out, row, set_, photos, smoke)


def _run(
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
    from train.study import train_study
    from train.study_recipe import StudyRecipe
    from vlcap.evaluation.page import WRITTEN
    from vlcap.files.results import results
    from vlcap.files.writing import fresh_folder

    hide_loading_bars()
    loaded = load_recipe(StudyRecipe, name, overrides or [], smoke=small, prefix=kind)
    if small:
        out = fresh_folder(out, "smoke")
        say(f"smoke run in {out}, which may be deleted afterwards")
    with ExitStack() as stack:
        for folder in loaded.comparisons(captions):  # before hours of training: may they be written?
            stack.enter_context(results(out / folder, WRITTEN))
        for found in train_study(loaded, classes or [], captions, out, rows=rows, track=track):
            write_comparison(found.comparison, found.captions, found.folder, photos)
        say(f"stages are in {out / 'stages.md'}")
