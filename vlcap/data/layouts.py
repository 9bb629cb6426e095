"""Layouts of captioned photos whose files say everything: Karpathy's JSON, COCO's JSON, parquet.

captions.py lists all layouts and chooses one. listed.py has those whose splits or ids may have to be found.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

from .building import from_files, matching_split, numbers_of, usable
from .caption_files import captions_by_image, known_id, list_at, parsed, read_file, text_of, whole_id
from .caption_set import CaptionDataError, CaptionSet
from .files import load_files, readable
from .names import listed, one_line

KARPATHY_FILES = ("dataset_coco.json", "dataset_flickr8k.json", "dataset_flickr30k.json", "dataset.json")
COCO_FILE = re.compile(r"captions_([A-Za-z]+)[_-]?(\d*)\.json")
PARQUET_FILE = re.compile(r"(\w+)(?:-.+)?\.parquet")


class Layout(Protocol):
    """Captioned photos in a folder."""

    @property
    def kind(self) -> str:
        """Name of the layout, for a person."""

    @property
    def files(self) -> Sequence[Path]:
        """The files with the captions."""

    def splits(self) -> list[str]:
        """Names of the splits. Raises CaptionDataError if the files cannot be read."""

    def read(self, split: str, limit: int | None) -> CaptionSet:
        """Reads a split. Raises CaptionDataError as `read_captions` does."""

    def problems(self) -> list[str]:
        """The problems by which `read` would refuse the files, each with its file and line."""

    def remarks(self) -> list[str]:
        """What is left out or repaired, one line each."""


class Strict:
    """A layout that refuses its files at the first problem."""

    def problems(self) -> list[str]:
        return []

    def remarks(self) -> list[str]:
        return []


@dataclass(frozen=True, eq=False)
class FilesBySplit(Strict):
    """A layout whose splits are files of their own.

    Attributes:
        folder: The folder.
        by_split: The files of each split.
    """

    folder: Path
    by_split: Mapping[str, list[Path]]

    @property
    def files(self) -> list[Path]:
        return [path for paths in self.by_split.values() for path in paths]

    def splits(self) -> list[str]:
        return list(self.by_split)


@dataclass(frozen=True, eq=False)
class Karpathy(Strict):
    """Karpathy's JSON: images[] with split, filepath, filename, cocoid or imgid, sentences[].raw."""

    kind: ClassVar = "Karpathy's JSON"
    folder: Path
    path: Path

    @classmethod
    def find(cls, folder: Path) -> "Karpathy | None":
        # By name, because Hugging Face puts a dataset_info.json beside parquet files.
        found = [folder / name for name in KARPATHY_FILES if (folder / name).is_file()]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise CaptionDataError(f"{folder}: only one of {names} can be read, move the others elsewhere")
        return cls(folder, found[0]) if found else None

    @property
    def files(self) -> list[Path]:
        return [self.path]

    @cached_property
    def photos(self) -> dict[str, list[tuple[int, list[str], str]]]:
        """image_id, captions and file name of the photos of each split."""
        photos: dict[str, list[tuple[int, list[str], str]]] = {}
        entries = list_at(read_file(self.path), "images", self.path)
        for part, image_id, captions, name in parsed(entries, f"{self.path}: images ", _karpathy_photo):
            photos.setdefault(part, []).append((image_id, captions, name))
        return photos

    def splits(self) -> list[str]:
        return list(self.photos)

    def read(self, split: str, limit: int | None) -> CaptionSet:
        part = matching_split(self.photos, split, self.path)
        known = [(image_id, name) for each in self.photos.values() for image_id, _, name in each]
        kept, dropped = usable(self.photos[part], f"{self.path}, {part}", limit)
        return from_files(self.folder, split, kept, dropped, places=("", "images"), known=known)


def _karpathy_photo(entry: dict) -> tuple[str, int, list[str], str]:
    """Split, image_id, captions and file name of an entry."""
    image_id = whole_id(entry["cocoid"] if "cocoid" in entry else entry["imgid"])
    captions = [text_of(sentence["raw"]) for sentence in entry["sentences"]]
    split, name, place = text_of(entry["split"]), text_of(entry["filename"]), text_of(entry.get("filepath", ""))
    return "train" if split == "restval" else split, image_id, captions, f"{place}/{name}" if place else name


@dataclass(frozen=True, eq=False)
class Coco(FilesBySplit):
    """COCO's JSON: images[] with id and file_name, annotations[] with image_id and caption."""

    kind: ClassVar = "COCO annotations"

    @classmethod
    def find(cls, folder: Path, place: str) -> "Coco | None":
        files = files_by_split(folder / place, COCO_FILE)
        return cls(folder, files) if files else None

    def read(self, split: str, limit: int | None) -> CaptionSet:
        part = matching_split(self.by_split, split, self.folder)  # "val2014" for "val"
        path = self.by_split[part][0]
        photos = coco_photos(path)
        written, bare = path.stem.removeprefix("captions_"), part.rstrip("0123456789")
        beside = (written, part, bare)
        places = (*beside, *(f"images/{place}" for place in beside), "images", "")
        known = [(image_id, name) for image_id, _, name in photos]
        return from_files(self.folder, split, *usable(photos, str(path), limit), places=places, known=known)


def coco_photos(path: Path) -> list[tuple[int, list[str], str]]:
    """image_id, captions and file name of the photos of a COCO file.

    Ids that are texts ("img_7") become numbers: those that the file names end in, or else the places in the file.

    Raises:
        CaptionDataError: The file is missing, damaged, or not a COCO file.
    """
    data = read_file(path)
    references = captions_by_image(data, path, known_id)
    images = list(parsed(list_at(data, "images", path), f"{path}: images ", _coco_photo))
    if unknown := references.keys() - {image_id for image_id, _ in images}:
        first = min(unknown, key=lambda each: (isinstance(each, str), each))
        raise CaptionDataError(f"{path}: image_id {first!r:.60} has captions but is not among the file's images")
    captions = [references.get(image_id, []) for image_id, _ in images]
    names = [name for _, name in images]
    ids = [image_id for image_id, _ in images if isinstance(image_id, int)]
    if len(ids) < len(images):
        if len({image_id for image_id, _ in images}) < len(images):
            raise CaptionDataError(f"{path}: an id occurs twice among the file's images, each photo needs its own")
        ids = numbers_of(names)
    return list(zip(ids, captions, names, strict=True))


def _coco_photo(entry: dict) -> tuple[int | str, str]:
    """image_id and file name of an entry."""
    return known_id(entry["id"]), text_of(entry["file_name"])


@dataclass(frozen=True, eq=False)
class Parquet(FilesBySplit):
    """Parquet files with photos in them, read through Hugging Face datasets, whose cache keeps them on disk."""

    kind: ClassVar = "parquet"

    @classmethod
    def find(cls, folder: Path) -> "Parquet | None":
        for place in (folder, folder / "data"):
            found = files_by_split(place, PARQUET_FILE)
            # img2dataset writes 00000.parquet, without photos, beside each 00000.tar
            files = {
                split: kept
                for split, paths in found.items()
                if (kept := [path for path in paths if not path.with_suffix(".tar").exists()])
            }
            if files:
                return cls(folder, files)
        return None

    def read(self, split: str, limit: int | None) -> CaptionSet:
        import pyarrow.compute

        paths = self.by_split[matching_split(self.by_split, split, self.folder)]
        where = str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        rows, text = _parquet_rows(paths, where)
        images = rows.data.column("image")
        if pyarrow.compute.struct_field(images, "bytes").null_count:
            raise CaptionDataError(f"{where}: rows without the bytes of their photo: embed the photos, not only paths")

        def parse(row: dict) -> tuple[int, list[str], int]:
            found = [row[text]] if isinstance(row[text], str) else row[text] or []
            captions = [text_of(caption or "") for caption in found]
            return whole_id(row.get("image_id", row["row"])), captions, row["row"]

        texts = rows.select_columns([name for name in ("image_id", text) if name in rows.column_names]).to_list()
        numbered = [row | {"row": number} for number, row in enumerate(texts)]
        kept, dropped = usable(list(parsed(numbered, f"{where}: row ", parse)), where, limit)
        names = pyarrow.compute.struct_field(images, "path").to_pylist()
        return CaptionSet(
            name=one_line(self.folder.name),
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
