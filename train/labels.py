"""Labelled photos for the classification trainer.

From parquet files, webdataset archives, a folder of class folders, a Hugging Face data set by name, or captioned
photos, whose labels are the words that people used for them.
"""

import glob
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

import torch
from PIL import Image
from timm.utils import natural_key
from torch.utils.data import Dataset

from vlcap.captions import read_captions
from vlcap.images import ImageError, find_images, load_image

SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "validation", "valid", "test")}
MAX_CLASSES = 1_000_000


class LabelError(ValueError):
    """Labelled photos that can't be used: where, what is wrong, what is expected."""


@dataclass(frozen=True)
class LabelledSet:
    """Photos with one label each, or with a weight in 0 .. 1 for every class.

    Args:
        classes: Their names.
        targets: (n,) class numbers, or (n, C) weights.
        load: Row number -> photo.
    """

    classes: list[str]
    targets: torch.Tensor
    load: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def multi_label(self) -> bool:
        return self.targets.ndim == 2


class LabelledPhotos(Dataset):
    """(transformed photo, target) pairs of a `LabelledSet`."""

    def __init__(
            self, labelled: LabelledSet, transform: Callable[[Image.Image], torch.Tensor], limit: int | None = None,
    ):
        self.labelled, self.transform = labelled, transform
        size = min(len(labelled), limit or len(labelled))
        self.rows = [i * len(labelled) // size for i in range(size)]  # spread out: rows often lie class by class

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        row = self.rows[i]
        return self.transform(self.labelled.load(row)), self.labelled.targets[row]


def read_labelled(data: str, split: str) -> LabelledSet:
    """Photos with one label each.

    Args:
        data: A folder with {split}*.parquet (columns image, label) or {split}*.tar (webdataset: jpg or png, and cls), a
            folder with {split}/{class}/photos, or the name of a Hugging Face data set.
        split: train or val.

    Raises:
        LabelError: None of these, or the split is missing.
    """
    folder = Path(data)
    if not folder.exists():
        return _read_hub(data, split)
    if files := split_files(folder, split):
        return _from_datasets(load_files(files), source=files[0], folder=folder)
    for name in SPLIT_NAMES[split]:
        if (folder / name).is_dir():
            return _read_class_folders(folder / name)
    raise LabelError(
        f"{folder} has no {split} split: expected {split}*.parquet with columns image and label, {split}*.tar, "
        f"or {split}/CLASS/photo.jpg")


def split_files(folder: Path, split: str) -> list[str]:
    """The parquet files, or else webdataset archives, of a split."""
    for name in SPLIT_NAMES[split]:
        for ending in ("parquet", "tar"):
            if files := sorted(map(str, folder.glob(f"{name}[.-]*{ending}"))):
                return files
    return []


def file_kind(files: list[str]) -> str:
    """The builder of Hugging Face datasets that reads them."""
    return "webdataset" if files[0].endswith(".tar") else "parquet"


def image_and_label(columns: Mapping[str, Any], source: str) -> tuple[str, str]:
    """The names of the image and of the label column: image and label, or webdataset's endings.

    Raises:
        LabelError: One of them is missing.
    """
    images = [name for name in ("image", "jpg", "jpeg", "png", "webp") if name in columns]
    labels = [name for name in ("label", "cls", "json") if name in columns]
    if images and labels:
        return images[0], labels[0]
    missing = ("" if images else "image") + ("" if images or labels else ", ") + ("" if labels else "label")
    raise LabelError(f"{source} has no column {missing}; it has {', '.join(columns)}")


def class_names(feature: Any, folder: Path | None, number: int | None = None) -> list[str] | None:
    """The classes' names: the feature's own, else the lines of `folder`/classes.txt, else numbers; None if unknown."""
    if names := getattr(feature, "names", None):
        return names
    if folder and (folder / "classes.txt").is_file():
        try:
            return (folder / "classes.txt").read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise LabelError(f"{folder / 'classes.txt'}: not a text in UTF-8 of one class a line") from None
    return None if number is None else [str(i) for i in range(number)]


def read_words(data: list[str], split: str, words: int, vocabulary: list[str] | None = None) -> LabelledSet:
    """Captioned photos labelled by words: a class's weight is the share of the photo's captions that use it.

    Args:
        data: Folders in any layout of `vlcap.captions`.
        split: train or val.
        words: Size of the vocabulary, the most frequent words of these captions.
        vocabulary: The training split's words, for any other split.
    """
    sets = [read_captions(folder, split) for folder in data]
    photos = [(captions, i) for captions in sets for i in range(len(captions))]
    used = [[set(re.findall(r"[a-z]+", text.lower())) for text in captions.captions[i]] for captions, i in photos]
    if vocabulary is None:
        counts = Counter(word for captions in used for word in set().union(*captions))
        vocabulary = sorted(counts, key=lambda word: (-counts[word], word))[:words]
    number = {word: n for n, word in enumerate(vocabulary)}
    targets = torch.zeros(len(photos), len(vocabulary))
    for row, captions in zip(targets, used, strict=True):
        for caption in captions:
            for word in caption & number.keys():
                row[number[word]] += 1 / len(captions)
    return LabelledSet(vocabulary, targets, lambda i: photos[i][0].image(photos[i][1]))


def load_files(files: list[str], split: str = "train", streaming: bool = False) -> Any:
    """A split's parquet files or webdataset archives as a data set of Hugging Face's.

    Raises:
        LabelError: They can't be read.
    """
    from datasets import load_dataset

    try:
        patterns = {split: [glob.escape(path) for path in files]}  # datasets takes every path for a pattern
        return load_dataset(file_kind(files), data_files=patterns, split=split, streaming=streaming)
    except Exception as error:  # datasets hides what was found behind an error of its own
        reason = " ".join(str(error.__cause__ or error).split())
        raise LabelError(f"{files[0]}: cannot be read as {file_kind(files)} ({reason:.300})") from None


def _read_hub(name: str, split: str) -> LabelledSet:
    from datasets import load_dataset

    for candidate in SPLIT_NAMES[split]:
        try:
            return _from_datasets(load_dataset(name, split=candidate), source=name)
        except ValueError as error:  # datasets' answer to a split that it hasn't got
            if "split" not in str(error).lower():
                raise
        except Exception as error:
            raise LabelError(f"{name} is neither a folder here nor a data set that can be had: {error}") from None
    raise LabelError(f"data set {name} has no {split} split")


def _from_datasets(dataset: Any, source: str, folder: Path | None = None) -> LabelledSet:
    from datasets import Image as ImageFeature

    image, label = image_and_label(dataset.features, source)
    try:
        labels = dataset[label][:]
        targets = torch.tensor([each["label"] for each in labels] if label == "json" else labels, dtype=torch.long)
        photos = dataset.cast_column(image, ImageFeature(decode=False))
    except Exception as error:  # of Arrow, datasets and torch, about values that aren't what the columns' names say
        raise LabelError(f"{source}: the columns {image} and {label} aren't photos and numbers of classes "
                         f"({' '.join(str(error).split()):.200})") from None
    if targets.ndim != 1 or not len(targets) or targets.min() < 0 or targets.max() > MAX_CLASSES:
        raise LabelError(f"{source}: the column {label} has to hold one number for each photo, 0 to {MAX_CLASSES}")
    names = class_names(dataset.features[label], folder, int(targets.max()) + 1)
    if names is None or targets.max() >= len(names):
        raise LabelError(f"{source}: label {int(targets.max())} of {len(names or [])} classes")

    def load(row: int) -> Image.Image:
        cell, name = photos[row][image], f"row {row} of {source}"
        if cell and cell["bytes"]:
            return load_image(cell["bytes"], name=name)
        if folder or not cell or not cell["path"]:  # a file from outside may not name files here
            raise ImageError(f"{name}: no photo in it, only {'its path' if cell else 'nothing'}: embed the photos")
        return load_image(cell["path"])

    return LabelledSet(names, targets, load)


def _read_class_folders(folder: Path) -> LabelledSet:
    """Every folder in it is a class, named by it, with the photos in and below it; one without photos is none.

    What is left out is warned of: folders that can't be read, those without photos, and files that are no images.
    """
    folders = sorted(each for each in folder.iterdir() if each.is_dir() and each.name[0] != ".")
    # By one spelling: letters with accents are composed on one system and not on another, of which the copy may come.
    found = {normalize("NFC", each.name): find_images([each]) for each in folders}
    empty = {name for name, inside in found.items() if inside.images and inside.images[0] in folders}
    for remark in [remark for name in sorted(found) for remark in found[name].remarks()]:
        warnings.warn(remark, stacklevel=2)
    if empty:
        warnings.warn(f"{folder}: skipped folders without images: {', '.join(sorted(empty)[:10])}", stacklevel=2)
    names = sorted((name for name, inside in found.items() if inside.images and name not in empty), key=natural_key)
    if not names:
        raise LabelError(f"{folder}: no photos in folders here: expected {folder.name}/CLASS/photo.jpg")
    paths = [path for name in names for path in found[name].images]
    targets = torch.tensor([number for number, name in enumerate(names) for _ in found[name].images])
    return LabelledSet(names, targets, lambda i: load_image(paths[i]))
