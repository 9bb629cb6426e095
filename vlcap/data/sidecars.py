"""Photos with a text file beside each, as kohya's trainers read them: 1.jpg and 1.txt, or 1.caption.

Each line that is not blank is a caption: with kohya's enable_wildcard, too, one of the lines is drawn at each step.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from .caption_set import CaptionDataError
from .finding import files_below, is_image_name
from .listed import Entry, Listed, Listing
from .names import one_line, shown
from .splits import split_of_folder
from .tables import read_text

SUFFIXES = (".txt", ".caption")  # the first one that is there is read


def find_sidecars(folder: Path) -> Listed | None:
    """Photos in and below a folder that have a text file beside them; None if not one has."""
    problems: list[str] = []
    files = files_below(folder, problems)
    beside = _texts(files)
    if not any(is_image_name(path.name) and path.with_suffix("") in beside for path in files):
        return None
    return Listed("photo and .txt", folder, [folder], lambda: _read_sidecars(folder, files, problems))


def _texts(files: Sequence[Path]) -> dict[Path, list[Path]]:
    """The text files by their paths without suffixes; those of a photo in the order of SUFFIXES."""
    found: dict[Path, list[Path]] = {}
    for suffix in SUFFIXES:
        for path in files:
            if path.suffix.lower() == suffix:
                found.setdefault(path.with_suffix(""), []).append(path)
    return found


def _read_sidecars(folder: Path, files: Sequence[Path], problems: Sequence[str]) -> Listing:
    found = Listing([folder], problems=list(problems))
    beside = _texts(files)
    used: set[Path] = set()
    second: list[Path] = []
    for path in files:
        if not is_image_name(path.name):
            continue
        texts = beside.get(path.with_suffix(""), [])
        used.update(texts)
        second += texts[1:]
        captions: list[str] = []
        if texts:
            try:
                captions = lines_of(read_text(texts[0]))
            except CaptionDataError as error:
                found.problems.append(str(error))
        name = path.relative_to(folder).as_posix()
        found.add(Entry(name, captions, split_of_folder(name), photo=name), where=one_line(path))
    alone = [path for texts in beside.values() for path in texts if path not in used]
    for what, paths in (("text files without a photo", alone), ("second text files of a photo", sorted(set(second)))):
        if paths:
            first = shown(str(paths[0].relative_to(folder)))
            found.remarks.append(f"{folder}: {what}, skipped: {len(paths)}, the first is {first}")
    return found


def lines_of(text: str) -> list[str]:
    """The captions in a text: its lines, without blank ones."""
    return [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
