"""Builds caption sets out of what the readers found: chooses the split, leaves out photos without captions, numbers."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from .caption_files import filled
from .caption_set import CaptionDataError, CaptionSet, MissingSplit
from .files import split_names
from .names import listed, one_line, shown
from .photo_paths import locate, path_parts

Place = TypeVar("Place")


def matching_split(files: Mapping[str, Any], split: str, folder: Path) -> str:
    """The split asked for, by whichever of its names it has, and without its year if there is only one year."""
    called = "|".join(map(re.escape, split_names(split)))
    matches = [split] if split in files else [part for part in files if re.fullmatch(rf"({called})(\d{{4}})?", part)]
    if len(matches) != 1:
        problem = f"more than one split {split!r}, say which" if matches else f"no split {split!r}, there is"
        raise (CaptionDataError if matches else MissingSplit)(f"{folder}: {problem} {listed(matches or files)}")
    return matches[0]


def usable(
    photos: list[tuple[int, list[str], Place]], where: str, limit: int | None
) -> tuple[list[tuple[int, list[str], Place]], int]:
    """Leaves out empty captions and photos without any, and applies the limit.

    Args:
        photos: (image_id, captions, place of the photo) of a whole split.
        where: The file, for messages.
        limit: Largest number of photos to keep, or None.

    Returns:
        The photos kept, and the number of photos without a caption.
    """
    image_id, times = Counter(photo[0] for photo in photos).most_common(1)[0] if photos else (None, 0)
    if times > 1:
        raise CaptionDataError(f"{where}: image_id {image_id} occurs {times} times, each photo needs its own")
    captioned = [(image_id, filled(captions), place) for image_id, captions, place in photos]
    kept = [photo for photo in captioned if photo[1]]
    if not kept:
        raise CaptionDataError(f"{where}: no captions, {len(photos)} photos")
    if len(kept) < len(photos):
        warnings.warn(f"{where}: photos without a caption, skipped: {len(photos) - len(kept)}", stacklevel=2)
    return kept[:limit], len(photos) - len(kept)


def from_files(
    folder: Path,
    split: str,
    photos: list[tuple[int, list[str], str]],
    dropped: int,
    places: Iterable[str],
    known: Sequence[tuple[int, str]],
) -> CaptionSet:
    """The set of photos that are files in one of `places`. `known` has the ids and names of all photos in the file."""
    first: dict[tuple[str, ...], int] = {}
    for image_id, name in known:
        if first.setdefault(path_parts(name), image_id) != image_id:
            raise CaptionDataError(
                f"{folder}: image_ids {first[path_parts(name)]} and {image_id} are both the photo {shown(name)}: "
                "list it once, with all of its captions"
            )
    names = [name for _, _, name in photos]
    files = locate(folder, names, list(dict.fromkeys(places)), {name for _, name in known})
    return CaptionSet(
        name=one_line(folder.name),
        split=split,
        image_ids=[image_id for image_id, _, _ in photos],
        captions=[captions for _, captions, _ in photos],
        files=files,
        sources=[os.path.join(folder, file) for file in files],
        dropped=dropped,
    )


def numbers_of(names: Sequence[str]) -> list[int]:
    """Ids for photos that have none: the number that each name ends in, or their places if those are not all different.

    COCO_val2014_000000000042.jpg is 42 and 1000092795.jpg is 1000092795, so the ids are those of COCO and Flickr30k.
    """
    stems = [PurePosixPath(name.replace("\\", "/")).stem for name in names]
    found = [match and int(match[0]) for stem in stems for match in [re.search(r"[0-9]{1,18}$", stem)]]
    numbers = [number for number in found if number is not None]
    return numbers if len(set(numbers)) == len(names) else list(range(len(names)))
