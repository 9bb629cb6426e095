"""Finds the photos of a caption file by the names that the file gives them, which may come from another system."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast
from unicodedata import normalize
from urllib.parse import unquote

from .caption_set import CaptionDataError
from .names import listed, shown


def locate(folder: Path, names: list[str], places: Sequence[str], known: set[str]) -> list[str]:
    """Finds photos by the names that an annotation file gives them.

    A name is tried in three forms: as it is; with / in place of \\, because Windows writes paths so; and its last part
    alone, because labeling tools write paths and addresses of their own machine. For each form, the places are
    searched one by one, and the first place that has all photos is taken. The last part alone stands for a photo only
    if no other name in the file ends in it. Names are looked up in the listings of folders, which never contain `..`,
    so no name leads out of the folder. Letters with accents are the same letters however they are composed.

    Args:
        folder: Folder that holds the places.
        names: Names of the photos to find.
        places: Folders relative to `folder`.
        known: All names in the file, including those of other splits.

    Returns:
        Paths of the photos relative to `folder`.

    Raises:
        CaptionDataError: Photos are missing, or their names do not tell them apart.
    """
    tree = _Tree(folder)
    endings = Counter(map(_last_part, known))
    forms: tuple[Callable[[str], str], ...] = (
        str,
        lambda name: name.replace("\\", "/"),
        lambda name: _last_part(name) if endings[_last_part(name)] == 1 else "",
    )
    fewest = names
    for form in forms:
        for place in places:
            files = [tree.find(f"{place}/{form(name)}") if form(name) else None for name in names]
            if None not in files:
                return cast(list[str], files)
            missing = [name for name, file in zip(names, files, strict=True) if file is None]
            if len(missing) < len(fewest):
                fewest = missing
    problem = (
        f"none of the {len(names)} photos is here"
        if len(fewest) == len(names)
        else f"{len(fewest)} of the {len(names)} photos are missing"
    )
    shared = sum(endings[_last_part(name)] > 1 for name in fewest)
    alike = f"; {shared} can't be told apart without their folders, as others have the same name" if shared else ""
    raise CaptionDataError(
        f"{folder}: {problem}, the first is {shown(fewest[0])}; looked in {listed(place or '.' for place in places)}"
        f"{alike}"
    )


def path_parts(name: str) -> tuple[str, ...]:
    """The parts of a path, the same for every way of writing it."""
    return tuple(part for part in normalize("NFC", name).replace("\\", "/").split("/") if part not in ("", "."))


def _last_part(name: str) -> str:
    """The last part of a path or an address, whatever system wrote it, with accented letters composed."""
    if "://" in name:
        name = unquote(re.split("[?#]", name)[0])
    return normalize("NFC", re.split(r"[\\/]|^[A-Za-z]:", name)[-1])


class _Tree:
    """The files below a folder. Each folder is listed once: 118,000 lookups on a network disk take minutes."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.listings: dict[str, dict[str, str]] = {}

    def find(self, path: str) -> str | None:
        """A relative path as the disk spells it; None if nothing is there."""
        found = ""
        for part in path.split("/"):
            if part in ("", "."):
                continue
            listing = self._listing(found)
            name = listing.get(part) or listing.get(normalize("NFC", part))
            if name is None:
                return None
            found = f"{found}/{name}" if found else name
        return found or None

    def _listing(self, place: str) -> dict[str, str]:
        """The names in a folder, by themselves and by their composed form. Empty if it is not a folder."""
        if place not in self.listings:
            path = self.folder / place
            try:
                names = os.listdir(path) if os.path.isdir(path) else []
            except OSError as error:
                raise CaptionDataError(f"{path}: this folder cannot be read ({error.strerror})") from error
            self.listings[place] = {normalize("NFC", name): name for name in names} | {name: name for name in names}
        return self.listings[place]
