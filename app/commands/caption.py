"""`vlcap caption` and `vlcap attention`: what a captioner says about photos and videos, and where it looks."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app import loading
from app.keeping import Tally, keep
from app.options import (
    Address,
    AsJson,
    Beams,
    BudgetOrAuto,
    CaptionFile,
    Engine,
    Existing,
    Int8,
    MinScore,
    Model,
    Ray,
    ShardSize,
    Sidecar,
    Threads,
)
from app.parsing import parse_budget
from app.printing import print_json, say

if TYPE_CHECKING:
    from vlcap.bulk.sidecars import Sidecars
    from vlcap.bulk.table import Table
    from vlcap.bulk.work import Wish


def caption(
    photos: Annotated[list[str], typer.Argument(help="Image files, videos and folders.", show_default=False)],
    model: Model = None,
    budget: BudgetOrAuto = None,
    beams: Beams = None,
    int8: Int8 = False,
    engine: Engine = None,
    as_json: AsJson = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Photos per batch.")] = 16,
    out: CaptionFile = None,
    sidecar: Sidecar = None,
    existing: Existing = None,
    prefix: Annotated[str, typer.Option(help="Text before each caption.")] = "",
    suffix: Annotated[str, typer.Option(help="Text after each caption.")] = "",
    count: Annotated[int, typer.Option(min=1, help="Captions per photo, all different: the best beams.")] = 1,
    min_score: MinScore = None,
    frames: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="Frames of each video that are read. Default: 4; of a captioner of clips, its own."
        ),
    ] = None,
    ray: Ray = False,
    address: Address = None,
    threads: Threads = None,
    shard_size: ShardSize = None,
) -> None:
    """Caption photos and videos: one line each, in the given order. Unreadable files are reported and skipped.

    In folders, hidden files are ignored, and other files are counted at the end. With --out or --sidecar, captions go
    into files instead. A run that was killed goes on when the command is repeated.
    """
    _check_options(out, sidecar, existing, as_json, prefix + suffix)
    if min_score is not None and not math.isfinite(min_score):
        raise typer.BadParameter(f"--min-score {min_score}: a number, such as -1.5")
    _check_ray(ray, out, existing, frames, address, threads, shard_size)
    if ray and out:
        from app.cluster import Asked, caption_on_ray

        sizes = (batch_size, shard_size or 1024, threads, address)
        asked = Asked(model, budget, beams, int8, engine, *sizes, prefix, suffix, count, min_score)
        raise typer.Exit(caption_on_ray(photos, out, asked))
    side = parse_budget(budget)
    from vlcap.data.finding import find_images, without, without_videos
    from vlcap.data.videos import can_read_videos

    found, about_videos = without_videos(find_images(photos, videos=can_read_videos()))
    place = _open_place(out, sidecar, existing, found.images)
    try:
        captioner = loading.load(model, engine, fastest=True, int8=int8, budget=side)
        from vlcap.bulk.work import Wish
        from vlcap.video import frames_of

        chosen = loading.choose_budget(captioner, budget, model)
        search = loading.search_for(captioner, beams, count)
        wish = Wish(chosen, count, min_score, prefix, suffix, search, frames_of(captioner, frames))
        tally: Tally | None
        if place is None:
            tally = _print(captioner, found.images, wish, batch_size, as_json)
        else:
            weights = loading.identify(model, captioner, int8)
            tally = keep(captioner, place, found.images, wish, batch_size, weights)
    finally:
        if place is not None:
            place.close()
    if tally is not None:  # the first process speaks for all
        found = without(found, place.outputs if place else ())
        for remark in [*found.remarks(), *about_videos, *tally.remarks(out or sidecar)]:
            say(remark)
        raise typer.Exit(1 if tally.unreadable or not found.complete else 0)


def _check_options(out: Path | None, sidecar: str | None, existing: str | None, as_json: bool, around: str) -> None:
    """Refuses options that contradict each other."""
    from vlcap.processes import several

    if out and sidecar:
        raise typer.BadParameter("--out and --sidecar: choose one")
    if as_json and (out or sidecar):
        raise typer.BadParameter("--json prints, and --out and --sidecar write files: choose one")
    if existing and not (out or sidecar):
        raise typer.BadParameter("--existing is about files: it needs --out or --sidecar")
    if several() and not (out or sidecar):
        raise typer.BadParameter("several processes need --out or --sidecar to share the photos")
    if not around.isprintable():
        raise typer.BadParameter("--prefix and --suffix must be printable and on one line")


def _check_ray(
    ray: bool,
    out: Path | None,
    existing: str | None,
    frames: int | None,
    address: str | None,
    threads: int | None,
    shard_size: int | None,
) -> None:
    """Refuses options that contradict --ray, or need it."""
    from vlcap.processes import several

    if not ray:
        for name, value in (("--address", address), ("--threads", threads), ("--shard-size", shard_size)):
            if value is not None:
                raise typer.BadParameter(f"{name} needs --ray")
        return
    if not out:
        raise typer.BadParameter("--ray needs --out FOLDER")
    if existing:
        raise typer.BadParameter("--existing is not for --ray: it goes on where an earlier run ended")
    if frames:
        raise typer.BadParameter("--frames is about videos, which --ray does not read")
    if several():
        raise typer.BadParameter("--ray and torchrun: choose one")


def _open_place(
    out: Path | None, sidecar: str | None, existing: Existing, photos: list[Path]
) -> "Table | Sidecars | None":
    """Where captions will be kept; None to print them."""
    if out:
        from vlcap.bulk.table import Table

        return Table(out, existing)
    if sidecar:
        from vlcap.bulk.sidecars import Sidecars

        return Sidecars(photos, sidecar, existing or "skip")
    return None


def _print(captioner: Any, photos: list[Path], wish: "Wish", batch_size: int, as_json: bool) -> Tally:
    from vlcap.bulk.work import caption_groups, in_groups
    from vlcap.data.names import one_line

    tally = Tally()
    for group in caption_groups(captioner, in_groups(photos, batch_size, wish.frames), wish):
        tally.count(group)
        for photo in group:
            for found in photo.captions:
                if as_json:
                    facts = {"budget": found.budget, "score": round(found.score, 3), "ms": round(found.ms, 1)}
                    print_json({"image": str(photo.photo), "caption": found.text, **facts})
                else:
                    print(f"{one_line(photo.photo)}: {found.text}")
        sys.stdout.flush()
    return tally


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
