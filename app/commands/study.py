"""`vlcap train table3`: encoders trained alike, a decoder on each, all compared."""

from typing import Annotated

import typer

from app.loading import hide_loading_bars
from app.options import Override, PagePhotos, RunFolder, Smoke
from app.printing import say, track

from .compare import write_comparison
from .train import load_recipe


def table3(
    data_classes: Annotated[str, typer.Option(help="Labeled photos, as `vlcap train classifier` takes them.")],
    data_captions: Annotated[
        list[str],
        typer.Option(help="Folder of captioned photos; repeat to join several. The first is the one compared on."),
    ],
    out: RunFolder,
    recipe: Annotated[str, typer.Option("--recipe", help="small, gpu, paper, or path of a .yaml file.")] = "small",
    set_: Override = None,
    photos: PagePhotos = 0,
    smoke: Smoke = False,
) -> None:
    """Train every encoder alike and a decoder on each, and compare them all. OUT/comparison is the result."""
    from train.table3 import Table3Recipe, train_table3
    from vlcap.data.captions import read_captions
    from vlcap.evaluation.page import WRITTEN
    from vlcap.files.results import results
    from vlcap.files.writing import fresh_folder

    hide_loading_bars()
    loaded = load_recipe(Table3Recipe, recipe, set_ or [], smoke=smoke)
    if smoke:
        out = fresh_folder(out, "smoke")
        say(f"smoke run in {out}, which may be deleted afterwards")
    with results(out / "comparison", WRITTEN):
        found = train_table3(loaded, data_classes, data_captions, out, track=track)
        captions = read_captions(data_captions[0], loaded.split, limit=loaded.limit)
        write_comparison(found, captions, out / "comparison", photos)
