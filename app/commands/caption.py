"""`vlcap caption` and `vlcap attention`: what a captioner says about photos, and where it looks."""

import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from app import loading
from app.options import AsJson, Beams, Budget, Engine, Int8, Model
from app.printing import print_json, say


def caption(
    photos: Annotated[list[Path], typer.Argument(help="Image files and folders.", show_default=False)],
    model: Model = None,
    budget: Budget = None,
    beams: Beams = None,
    int8: Int8 = None,
    engine: Engine = None,
    as_json: AsJson = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Photos per batch.")] = 16,
) -> None:
    """Caption photos: one line per photo, in the given order. Unreadable files are reported and skipped.

    In folders, hidden files are ignored, and files that are not images are counted at the end.
    """
    import numpy as np

    captioner = loading.load(model, engine, fastest=True, int8=int8, budget=budget)
    from vlcap.data.images import ImageError, find_images, one_line
    from vlcap.data.names import plain_line
    from vlcap.data.reading import read_batches

    budget = loading.check_budget(captioner, budget)
    failed = False

    def report(error: ImageError) -> None:
        nonlocal failed
        say(str(error))
        failed = True

    found_images = find_images(photos)
    names: deque[list[Path]] = deque()  # of the batches that are encoded and not yet decoded

    def pixels() -> Iterator[np.ndarray]:
        for batch in read_batches(found_images.images, captioner.read, batch_size, report):
            names.append([name for name, _ in batch])
            yield np.stack([image for _, image in batch])

    for found in captioner.caption_batches(pixels(), budget=budget, **loading.search_settings(beams)):
        for name, result in zip(names.popleft(), found, strict=True):
            if as_json:
                facts = {"budget": result.budget, "score": round(result.score, 3), "ms": round(result.ms, 1)}
                print_json({"image": str(name), "caption": result.text, **facts})
            else:
                print(f"{one_line(name)}: {plain_line(result.text)}")
        sys.stdout.flush()
    for remark in found_images.remarks():
        say(remark)
    raise typer.Exit(1 if failed or not found_images.complete else 0)


def attention(
    photo: Annotated[Path, typer.Argument(help="Image file.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write: .png, .svg or .pdf.")],
    model: Model = None,
    engine: Engine = None,
    budget: Annotated[
        list[int] | None,
        typer.Option(
            "--budget", min=1, help="Side of the grid; repeat for one row per budget. Default: the model's own."
        ),
    ] = None,
    each_token: Annotated[
        bool, typer.Option("--each-token", help="Draw one row per token instead of the mean over tokens.")
    ] = False,
) -> None:
    """Draw which parts of a photo each block of the encoder gathers from."""
    from vlcap.attention import draw_maps
    from vlcap.data.images import load_image
    from vlcap.files.results import check_picture

    metadata = check_picture(out)
    image = load_image(photo)
    captioner = loading.load(model, engine)
    for each in budget or []:
        loading.check_budget(captioner, each)
    draw_maps(captioner, image, budget or [None], each_token).savefig(out, dpi=150, metadata=metadata)
