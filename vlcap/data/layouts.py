"""Readers of captioned photos, one for each layout. captions.py lists the layouts and chooses the reader."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .caption_files import captions_by_image, filled, list_at, parsed, read_file, text_of, whole_id
from .caption_set import CaptionDataError, CaptionSet, MissingSplit
from .files import load_files, readable, split_names
from .names import listed, one_line, shown
from .photo_paths import locate, path_parts

Place = TypeVar("Place")


def read_karpathy(folder: Path, path: Path, split: str, limit: int | None) -> CaptionSet:
    """Reads a split of Karpathy's JSON: images[] with split, filepath, filename, cocoid or imgid, sentences[].raw."""
    photos: dict[str, list[tuple[int, list[str], str]]] = {}
    entries = list_at(read_file(path), "images", path)
    for part, image_id, captions, name in parsed(entries, f"{path}: images ", _karpathy_photo):
        photos.setdefault(part, []).append((image_id, captions, name))
    part = _matching(photos, split, path)
    known = [(image_id, name) for each in photos.values() for image_id, _, name in each]
    usable = _usable(photos[part], f"{path}, {part}", limit)
    return _from_files(folder, split, *usable, places=("", "images"), known=known)


def _karpathy_photo(entry: dict) -> tuple[str, int, list[str], str]:
    """Split, image_id, captions and file name of an entry."""
    image_id = whole_id(entry["cocoid"] if "cocoid" in entry else entry["imgid"])
    captions = [text_of(sentence["raw"]) for sentence in entry["sentences"]]
    split, name, place = text_of(entry["split"]), text_of(entry["filename"]), text_of(entry.get("filepath", ""))
    return "train" if split == "restval" else split, image_id, captions, f"{place}/{name}" if place else name


def read_coco(folder: Path, files: Mapping[str, list[Path]], split: str, limit: int | None) -> CaptionSet:
    """Reads a split of COCO's JSON: images[] with id and file_name, annotations[] with image_id and caption."""
    part = _matching(files, split, folder)  # "val2014" for "val"
    path = files[part][0]
    data = read_file(path)
    references = captions_by_image(data, path)
    photos = [
        (image_id, references.get(image_id, []), name)
        for image_id, name in parsed(list_at(data, "images", path), f"{path}: images ", _coco_photo)
    ]
    if unknown := references.keys() - {photo[0] for photo in photos}:
        raise CaptionDataError(f"{path}: image_id {min(unknown)} has captions but is not among the file's images")
    written, bare = path.stem.removeprefix("captions_"), part.rstrip("0123456789")
    beside = (written, part, bare)
    places = (*beside, *(f"images/{place}" for place in beside), "images", "")
    known = [(image_id, name) for image_id, _, name in photos]
    return _from_files(folder, split, *_usable(photos, str(path), limit), places=places, known=known)


def _coco_photo(entry: dict) -> tuple[int, str]:
    """image_id and file name of an entry."""
    return whole_id(entry["id"]), text_of(entry["file_name"])


def read_parquet(folder: Path, files: Mapping[str, list[Path]], split: str, limit: int | None) -> CaptionSet:
    """Reads a split from parquet files through Hugging Face datasets, whose cache keeps the photos on disk."""
    import pyarrow.compute

    paths = files[_matching(files, split, folder)]
    where = str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    rows, text = _parquet_rows(paths, where)
    images = rows.data.column("image")
    if pyarrow.compute.struct_field(images, "bytes").null_count:
        raise CaptionDataError(f"{where}: rows without the bytes of their photo: embed the photos, not only paths")

    def parse(row: dict) -> tuple[int, list[str], int]:
        captions = [row[text]] if isinstance(row[text], str) else row[text] or []
        return whole_id(row.get("image_id", row["row"])), [text_of(caption or "") for caption in captions], row["row"]

    texts = rows.select_columns([name for name in ("image_id", text) if name in rows.column_names]).to_list()
    photos = list(parsed([row | {"row": number} for number, row in enumerate(texts)], f"{where}: row ", parse))
    kept, dropped = _usable(photos, where, limit)
    names = pyarrow.compute.struct_field(images, "path").to_pylist()
    return CaptionSet(
        name=one_line(folder.name),
        split=split,
        image_ids=[image_id for image_id, _, _ in kept],
        captions=[captions for _, captions, _ in kept],
        files=[names[row] or f"row {row}" for _, _, row in kept],
        sources=rows.select_columns(["image"]).select([row for _, _, row in kept]),
        dropped=dropped,
    )


def _parquet_rows(paths: Sequence[Path], where: str) -> tuple[Any, str]:
    """The rows of parquet files, photos undecoded, and the name of the column with the captions."""
    import datasets

    with readable(where, "parquet", CaptionDataError):
        rows = load_files(paths, "parquet")
        text = "captions" if "captions" in rows.column_names else "caption"
        if "image" not in rows.column_names or text not in rows.column_names:
            found = listed(rows.column_names)
            raise CaptionDataError(f"{where}: needs the columns image and captions (or caption), there is {found}")
        return rows.cast_column("image", datasets.Image(decode=False)), text


def files_by_split(folder: Path, pattern: re.Pattern) -> dict[str, list[Path]]:
    """Files whose names match, by the split that the name gives. Empty if there is no such folder."""
    found: dict[str, list[Path]] = {}
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        if match := pattern.fullmatch(name):
            found.setdefault("".join(match.groups()), []).append(folder / name)  # captions_val_2017 is for val2017
    return found


def _matching(files: Mapping[str, Any], split: str, folder: Path) -> str:
    """The split asked for, by whichever of its names it has, and without its year if there is only one year."""
    called = "|".join(map(re.escape, split_names(split)))
    matches = [split] if split in files else [part for part in files if re.fullmatch(rf"({called})(\d{{4}})?", part)]
    if len(matches) != 1:
        problem = f"more than one split {split!r}, say which" if matches else f"no split {split!r}, there is"
        raise (CaptionDataError if matches else MissingSplit)(f"{folder}: {problem} {listed(matches or files)}")
    return matches[0]


def _usable(
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


def _from_files(
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
