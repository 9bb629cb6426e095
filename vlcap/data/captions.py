"""Reads captioned photos, in the layouts people have them in. Every command that reads a data set calls this module.

`read_captions` takes the first layout that fits the folder:

    Karpathy      dataset_coco.json, dataset_flickr8k.json, dataset_flickr30k.json or dataset.json; photos in
                  {filepath}/, images/ or beside the file; its restval counts as train
    COCO          annotations/captions_{split}{year}.json, or {split}_{year}; photos in {split}{year}/, {split}/ or
                  images/; if a folder has two years, the split names one: "val2014"
    parquet       {split}.parquet or {split}-*.parquet, also in data/; columns image, captions or caption, image_id
    COCO file     captions_{split}.json; photos as in COCO, or beside the file
    imagefolder   metadata.jsonl or metadata.csv, in the folder or one per folder below it
    table         CSV or TSV with a header, JSON lines, or Flickr's token files (tables.py)
    COCO JSON     any other .json file with COCO's keys, as labeling tools write it
    webdataset    .tar files, in the folder or right below it
    sidecars      photo and .txt or .caption, in the folder and below it, as kohya's trainers read them

The last five find the splits by themselves: a column split says them, or a word such as train or val2017 in the name of
a file or as the name of a folder. If nothing does, photos are drawn by their content: 90 % train, 5 % val, 5 % test.

A new layout needs a reader, and a line here and in `find_layouts`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from .caption_files import read_coco_captions, read_coco_results, write_coco_results
from .caption_set import CaptionDataError, CaptionSet, MissingSplit
from .layouts import Coco, Karpathy, Layout, Parquet
from .names import listed
from .shards import find_shards
from .sidecars import find_sidecars
from .tables import find_tables
from .tool_json import find_labeling

__all__ = [
    "CaptionDataError",
    "CaptionSet",
    "MissingSplit",
    "find_layouts",
    "read_captions",
    "read_coco_captions",
    "read_coco_results",
    "write_coco_results",
]


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
    folder = absolute(folder)
    if limit is not None and limit < 1:
        raise CaptionDataError(f"limit must be at least 1, got {limit}")
    for layout in find_layouts(folder):
        return layout.read(split, limit)
    raise no_captions(folder, split)


def absolute(folder: str | os.PathLike) -> Path:
    """The absolute path of a folder. Raises CaptionDataError if there is none."""
    folder = Path(os.path.abspath(folder))
    if not os.path.isdir(folder):
        raise CaptionDataError(f"{folder}: no such folder")
    return folder


def find_layouts(folder: Path) -> Iterator[Layout]:
    """The layouts that fit a folder. The first is the one that `read_captions` reads.

    Raises:
        CaptionDataError: Several files of a layout are there, and nothing says which one to read.
        OSError: The folder cannot be read.
    """
    for find in (
        Karpathy.find,
        lambda folder: Coco.find(folder, "annotations"),
        Parquet.find,
        lambda folder: Coco.find(folder, ""),
        lambda folder: find_tables(folder, metadata=True),
        lambda folder: find_tables(folder, metadata=False),
        find_labeling,
        find_shards,
        find_sidecars,
    ):
        if layout := find(folder):
            yield layout


def no_captions(folder: Path, split: str) -> CaptionDataError:
    """The error that a folder fits no layout."""
    found = [
        f"{name}/ with {listed(sorted(os.listdir(folder / name)))}"
        if name in ("annotations", "data") and (folder / name).is_dir()
        else name
        for name in sorted(os.listdir(folder))
    ]
    return CaptionDataError(
        f"{folder}: no captions found. Expected dataset_coco.json, annotations/captions_{split}2014.json (or 2017), "
        f"{split}.parquet, captions_{split}.json, metadata.jsonl, a .csv, .tsv or .tar file, or photos with .txt "
        f"files, but there is {listed(found)}"
    )
