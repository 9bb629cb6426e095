"""What a folder of captioned photos holds: layout, splits, photos, captions, problems. `vlcap data` prints it."""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..tracking import Track, no_track
from .caption_set import CaptionDataError, CaptionSet
from .captions import absolute, find_layouts, no_captions
from .finding import find_images
from .images import ImageError
from .layouts import Layout
from .listed import Listed


@dataclass(frozen=True)
class SplitFound:
    """Numbers of a split: its photos with captions, their captions, and its photos that have none."""

    split: str
    photos: int
    captions: int
    without_captions: int


@dataclass(frozen=True)
class Survey:
    """What is in a folder.

    Attributes:
        folder: The folder.
        layout: The layout that is read.
        files: The files with the captions.
        splits: The splits, in the order of the files.
        problems: Why the folder, or a split of it, is refused; by file and line.
        remarks: What is left out or repaired, one line each.
        others: Further layouts in the folder, which are not read.
    """

    folder: str
    layout: str
    files: list[str]
    splits: list[SplitFound]
    problems: list[str]
    remarks: list[str]
    others: list[str]


def survey(folder: str | os.PathLike, check_photos: bool = False, track: Track = no_track) -> Survey:
    """Reads all splits of a folder and counts what is in them.

    Args:
        folder: The folder.
        check_photos: Whether to open every photo, too.
        track: Function that shows the progress of opening photos, from their places, their number and a description.

    Raises:
        CaptionDataError: There is no such folder, or no captions in it.
    """
    folder = absolute(folder)
    remaining = find_layouts(folder)
    layout = next(remaining, None)
    if layout is None:
        raise no_captions(folder, "train")
    problems, remarks, others = [], [], []
    try:
        others = [f"{other.kind} ({_names(other, folder)})" for other in remaining]
    except CaptionDataError as error:
        others = [str(error)]
    try:
        if isinstance(layout, Listed):
            layout = replace(layout, narrow=None)  # all of its files are read once
        problems += layout.problems()
        if problems and isinstance(layout, Listed):
            layout = replace(layout, strict=False)
        remarks += layout.remarks()
        sets = [_read(layout, split, problems, remarks) for split in layout.splits()]
    except (CaptionDataError, ImageError) as error:
        problems.append(str(error))
        sets = []
    read = [captions for captions in sets if captions is not None]
    if not problems:
        remarks += _unnamed(folder, read)
    if check_photos:
        problems += [problem for captions in read for problem in _unreadable(captions, track)]
    splits = [SplitFound(each.split, len(each), sum(map(len, each.captions)), each.dropped) for each in read]
    files = [str(path) for path in layout.files]
    return Survey(str(folder), layout.kind, files, splits, problems, list(dict.fromkeys(remarks)), others)


def read_all(folder: str | os.PathLike) -> list[CaptionSet]:
    """All splits of a folder.

    Raises:
        CaptionDataError: As for `read_captions`.
    """
    folder = absolute(folder)
    for layout in find_layouts(folder):
        return [layout.read(split, None) for split in layout.splits()]
    raise no_captions(folder, "train")


def _names(layout: Layout, folder: Path) -> str:
    first, more = layout.files[0], len(layout.files) - 1
    name = os.path.relpath(first, folder)
    return ("in and below the folder" if name == "." else name) + (f" and {more} more" if more else "")


def _read(layout: Layout, split: str, problems: list[str], remarks: list[str]) -> CaptionSet | None:
    """A split; None if it is refused. The problem and the warnings go into the lists."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            return layout.read(split, None)
        except CaptionDataError as error:
            problems.append(str(error))
            return None
        finally:
            remarks += [str(warning.message) for warning in caught if warning.category is UserWarning]


def _unnamed(folder: Path, sets: Iterable[CaptionSet]) -> list[str]:
    """A line about the photos in a folder that no caption is about."""
    used = {source for each in sets for source in each.sources if isinstance(source, str)}
    found = find_images([folder]).images
    missing = sum(os.path.abspath(path) not in used for path in found if path != folder)
    missing -= sum(each.dropped for each in sets)
    return [f"{folder}: photos that no caption names: {missing}"] if used and missing > 0 else []


def _unreadable(captions: CaptionSet, track: Track) -> Iterable[str]:
    """The problems of the photos of a split."""
    for i in track(range(len(captions)), len(captions), f"opening the photos of {captions.split}"):
        try:
            captions.image(i)
        except ImageError as error:
            yield str(error)
