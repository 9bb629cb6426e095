"""Reads captioned photos, in the layouts people have them in. The door for every command that reads a data set.

`read_captions` takes the first layout that fits the folder:

    Karpathy   dataset_coco.json, dataset_flickr8k.json, dataset_flickr30k.json or dataset.json; photos in {filepath}/,
               images/ or beside the file; its restval counts as train
    COCO       annotations/captions_{split}{year}.json, or {split}_{year}; photos in {split}{year}/, {split}/ or
               images/; if a folder has two years, the split names one: "val2014"
    parquet    {split}.parquet or {split}-*.parquet, also in data/; columns image, captions or caption, image_id
    COCO file  captions_{split}.json; photos as in COCO, or beside the file

A reader for each is in layouts.py. A new layout needs a reader there, and a line here.
"""

import os
import re
from pathlib import Path

from .caption_files import read_coco_captions, read_coco_results, write_coco_results
from .caption_set import CaptionDataError, CaptionSet, MissingSplit
from .layouts import files_by_split, read_coco, read_karpathy, read_parquet
from .names import listed

__all__ = [
    "CaptionDataError",
    "CaptionSet",
    "MissingSplit",
    "read_captions",
    "read_coco_captions",
    "read_coco_results",
    "write_coco_results",
]

# By name, because Hugging Face puts a dataset_info.json beside parquet files.
KARPATHY_FILES = ("dataset_coco.json", "dataset_flickr8k.json", "dataset_flickr30k.json", "dataset.json")
COCO_FILE = re.compile(r"captions_([A-Za-z]+)[_-]?(\d*)\.json")
PARQUET_FILE = re.compile(r"(\w+)(?:-.+)?\.parquet")


def read_captions(folder: str | os.PathLike, split: str, limit: int | None = None) -> CaptionSet:
    """Reads one split of a folder of captioned photos.

    Args:
        folder: A folder in one of the layouts at the top of this file.
        split: "train", "val", "test", or any other split that the folder has.
        limit: Number of photos to take from the start; None takes all.

    Returns:
        The photos in the order of the file that lists them, without those that have no caption.

    Raises:
        CaptionDataError: The folder, the layout or the split is missing; a file is damaged; photos are missing; an id
            occurs twice.
    """
    folder = Path(os.path.abspath(folder))
    if not os.path.isdir(folder):
        raise CaptionDataError(f"{folder}: no such folder")
    if limit is not None and limit < 1:
        raise CaptionDataError(f"limit must be at least 1, got {limit}")

    if karpathy := [folder / name for name in KARPATHY_FILES if (folder / name).is_file()]:
        if len(karpathy) > 1:
            names = ", ".join(path.name for path in karpathy)
            raise CaptionDataError(f"{folder}: only one of {names} can be read, move the others elsewhere")
        return read_karpathy(folder, karpathy[0], split, limit)
    if files := files_by_split(folder / "annotations", COCO_FILE):
        return read_coco(folder, files, split, limit)
    if files := files_by_split(folder, PARQUET_FILE) or files_by_split(folder / "data", PARQUET_FILE):
        return read_parquet(folder, files, split, limit)
    if files := files_by_split(folder, COCO_FILE):
        return read_coco(folder, files, split, limit)
    found = [
        f"{name}/ with {listed(sorted(os.listdir(folder / name)))}"
        if name in ("annotations", "data") and (folder / name).is_dir()
        else name
        for name in sorted(os.listdir(folder))
    ]
    raise CaptionDataError(
        f"{folder}: no captions found. Expected dataset_coco.json, annotations/captions_{split}2014.json (or 2017), "
        f"{split}.parquet or captions_{split}.json, but there is {listed(found)}"
    )
