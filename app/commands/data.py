"""`vlcap data`: what is in a folder of captioned photos, and the same photos in another layout."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.options import AsJson
from app.printing import print_json, say, track

SHOWN = 20  # problems that are printed; --json has all


class Layout(StrEnum):
    """Layouts to write."""

    kohya = "kohya"
    imagefolder = "imagefolder"
    csv = "csv"
    webdataset = "webdataset"
    coco = "coco"
    parquet = "parquet"


def data(
    folder: Annotated[Path, typer.Argument(help="Folder of captioned photos.", show_default=False)],
    to: Annotated[Layout | None, typer.Option(help="Layout to write the photos and captions in.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; it must be new or empty.")] = None,
    check_photos: Annotated[bool, typer.Option("--check-photos", help="Open every photo, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what is in a folder of captioned photos: layout, splits, photos, captions, problems. Or convert it."""
    from vlcap.data.converting import convert
    from vlcap.data.survey import read_all, survey
    from vlcap.files.writing import check_new

    if (to is None) != (out is None):
        raise typer.BadParameter("--to LAYOUT and --out FOLDER go together")
    if out is not None:
        _check_outside(out, folder)
        check_new(out)
    found = survey(folder, check_photos, lambda items, total, what: track(items, total=total, what=what))
    if as_json:
        print_json(asdict(found), indent=2)
    else:
        _print(found)
    if found.problems:
        if out:
            say(f"nothing is written to {out}: mend the problems first")
        raise typer.Exit(1)
    if to and out:
        sets = read_all(folder)
        for remark in convert(sets, to.value, out, lambda items, total, what: track(items, total=total, what=what)):
            say(remark)
        say(f"written to {out}")


def _check_outside(out: Path, folder: Path) -> None:
    if out.resolve().is_relative_to(folder.resolve()):
        raise typer.BadParameter(f"--out {out} lies in {folder}, whose photos would then be there twice")


def _print(found) -> None:
    from vlcap.data.names import one_line

    first, more = found.files[0], len(found.files) - 1
    print(f"layout: {found.layout}, {one_line(first)}" + (f" and {more} more" if more else ""))
    for split in found.splits:
        bare = f", and {split.without_captions} photos without a caption" if split.without_captions else ""
        print(f"{one_line(split.split)}: {split.photos} photos, {split.captions} captions{bare}")
    for remark in found.remarks:
        print(f"note: {one_line(remark)}")
    for other in found.others:
        print(f"not read: {one_line(other)}")
    for problem in found.problems[:SHOWN]:
        print(f"problem: {one_line(problem)}")
    if len(found.problems) > SHOWN:
        print(f"and {len(found.problems) - SHOWN} more problems: --json lists all")
