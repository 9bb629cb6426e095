"""Captioned photos in webdataset archives: tar files in which 0012.jpg, 0012.txt and 0012.json belong together.

The captions are the list `captions` of the .json file, or the lines of the .txt file, or the text under `caption` or
`text` in the .json file. img2dataset writes such archives. Photos are read from their places in the archives.
"""

import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import reason
from .building import matching_split
from .caption_files import text_of, whole_id
from .caption_set import CaptionDataError
from .finding import SUFFIXES
from .listed import Entry, Listed, Listing
from .names import listed, shown
from .photo_sources import ArchivedPhoto
from .sidecars import lines_of
from .splits import split_of_file

MAX_TEXT = 1024**2  # bytes of a text in an archive


def find_shards(folder: Path) -> Listed | None:
    """The tar files in a folder, and in the folders right below it; None if there are none."""
    below = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]
    files = [
        path
        for place in (folder, *below)
        for path in sorted(place.iterdir())
        if path.suffix.lower() == ".tar" and path.name[0] != "." and path.is_file()
    ]
    if not files:
        return None
    splits: dict[str | None, list[Path]] = {}
    for path in files:
        splits.setdefault(split_of_file(path, folder), []).append(path)
    named = {split: paths for split, paths in splits.items() if split is not None}

    def narrow(split: str) -> Listed:
        mine = named[matching_split(named, split, folder)]
        return Listed("webdataset", folder, mine, lambda: _read_shards(folder, mine))

    everything = Listed("webdataset", folder, files, lambda: _read_shards(folder, files))
    return replace(everything, narrow=narrow) if len(named) == len(splits) else everything


def _read_shards(folder: Path, files: list[Path]) -> Listing:
    found = Listing(files)
    alone: list[str] = []
    for path in files:
        place = path.relative_to(folder).as_posix()
        split = split_of_file(path, folder)
        try:
            samples = _samples(path)
            for key, sample in samples.items():
                photos = [ending for ending in sample if f".{ending}" in SUFFIXES]
                where = f"{path}, {shown(key)}"
                if len(photos) != 1:
                    if photos:
                        found.problems.append(f"{where}: several photos of one name: {listed(photos)}")
                    else:
                        alone.append(f"{place}/{key}")
                    continue
                try:
                    captions, image_id = _captions(path, sample)
                except (CaptionDataError, TypeError, ValueError, RecursionError) as error:
                    found.problems.append(f"{where}: {' '.join(str(error).split()) or type(error).__name__:.200}")
                    continue
                name = f"{place}/{key}.{photos[0]}"
                found.add(Entry(name, captions, split, image_id, sample[photos[0]]), where)
        except CaptionDataError as error:
            found.problems.append(str(error))
    if alone:
        found.remarks.append(
            f"{folder}: samples without a photo, skipped: {len(alone)}, the first is {shown(alone[0])}"
        )
    return found


def _samples(path: Path) -> dict[str, dict[str, ArchivedPhoto]]:
    """The places of an archive's files, by the name up to the first dot, and by the ending after it.

    Raises:
        CaptionDataError: It is no tar file, is compressed or damaged, or names a file twice.
    """
    found: dict[str, dict[str, ArchivedPhoto]] = {}
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                folder, base = os.path.split(member.name)
                if not member.isreg() or base.startswith("."):
                    continue
                if member.issparse() or member.offset_data + member.size > size:
                    raise CaptionDataError(f"{path}, {shown(member.name)}: cut short: copy or download the file again")
                key, _, ending = base.partition(".")
                sample = found.setdefault(f"{folder}/{key}" if folder else key, {})
                if ending.lower() in sample:
                    raise CaptionDataError(f"{path}, {shown(member.name)}: is in the archive twice")
                sample[ending.lower()] = ArchivedPhoto(str(path), member.offset_data, member.size)
    except CaptionDataError:
        raise
    except OSError as error:
        raise CaptionDataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # of damaged headers: TarError, but ValueError, OverflowError and others too
        raise CaptionDataError(f"{path}: cannot be read as an uncompressed tar file ({reason(error, 200)})") from error
    return found


def _captions(path: Path, sample: dict[str, ArchivedPhoto]) -> tuple[list[str], int | None]:
    """The captions of a sample, and its id if it has one.

    Raises:
        CaptionDataError, TypeError, ValueError: A text is not UTF-8 or too large; the JSON is damaged.
    """
    about: Any = json.loads(_text(sample["json"])) if "json" in sample else {}
    if not isinstance(about, dict):
        raise TypeError(f"the .json file must hold an object with keys, got {about!r:.60}")
    try:
        image_id = whole_id(about.get("image_id"))
    except TypeError:
        image_id = None  # none, or a name of another kind
    return captions_in(about, _text(sample["txt"]) if "txt" in sample else None), image_id


def captions_in(about: dict[str, Any], text: str | None) -> list[str]:
    """The captions of a sample; some may be empty. `train/caption_stream.py` reads streams by it, too.

    Args:
        about: Content of its .json file; {} if there is none.
        text: Content of its .txt file; None if there is none.

    Raises:
        TypeError: A caption is no text.
    """
    told = about.get("captions")
    if not told and text is not None:
        told = lines_of(text)
    told = told or next((about[key] for key in ("caption", "text") if about.get(key)), [])
    return [text_of(each).strip() for each in (told if isinstance(told, list) else [told])]


def _text(member: ArchivedPhoto) -> str:
    """A text in an archive."""
    if member.size > MAX_TEXT:
        raise CaptionDataError(f"a text of {member.size} bytes, the limit is {MAX_TEXT}")
    with open(member.archive, "rb") as file:
        file.seek(member.offset)
        return file.read(member.size).decode("utf-8-sig")
