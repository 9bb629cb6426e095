"""Labelled photos for the classification trainer.

From parquet files, webdataset archives, a folder of class folders, a Hugging Face data set by name, or captioned
photos, whose labels are the words that people used for them.
"""

import glob
import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.utils import natural_key
from torch.utils.data import Dataset

from vlcap.captions import read_captions
from vlcap.images import ImageError, find_images, load_image

from .cache import Photos, ViewCache, read_places

SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "validation", "valid", "test")}
MAX_CLASSES = 1_000_000


class LabelError(ValueError):
    """Labelled photos that can't be used: where, what is wrong, what is expected."""


@dataclass(frozen=True, eq=False)
class PhotoFiles:
    """Photos without captions.

    Args:
        name: Name of the data set.
        split: train or val.
        size: How many.
        load: Row number -> photo.
        digest: Gives the SHA-256 of their content.
    """

    name: str
    split: str
    size: int
    load: Callable[[int], Image.Image]
    digest: Callable[[], str]

    def __len__(self) -> int:
        return self.size

    def image(self, i: int) -> Image.Image:
        return self.load(i)

    def fingerprint(self) -> str:
        return self.digest()


@dataclass(frozen=True)
class LabelledSet:
    """Photos with one label each, or with a weight in 0 .. 1 for every class.

    Args:
        classes: Their names.
        targets: (n,) class numbers, or (n, C) weights.
        photos: Where each is: (photos, row in them).
    """

    classes: list[str]
    targets: torch.Tensor
    photos: list[tuple[Photos, int]]

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def multi_label(self) -> bool:
        return self.targets.ndim == 2

    def load(self, row: int) -> Image.Image:
        """The photo of a row."""
        photos, i = self.photos[row]
        return photos.image(i)


class LabelledPhotos(Dataset):
    """(transformed photo, target) pairs of a `LabelledSet`."""

    def __init__(self, labelled: LabelledSet, transform: Callable[[Image.Image], torch.Tensor]):
        self.labelled, self.transform = labelled, transform

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, ...]:
        return self.transform(self.labelled.load(row)), self.labelled.targets[row]


class CachedPhotos(LabelledPhotos):
    """(what is seen, target, place) triples: a photo's place in the caches is (cache, row in it, view).

    What is seen is the photo's pixels, the view's own, where `pixels` says so; else nothing, as the caches have all.
    """

    def __init__(self, labelled: LabelledSet, caches: Mapping[Photos, ViewCache], pixels: bool):
        super().__init__(labelled, transform=lambda photo: photo)
        self.caches = list(caches.values())
        number = {photos: i for i, photos in enumerate(caches)}
        self.places = [(number[photos], i) for photos, i in labelled.photos]
        self.pixels = pixels

    def __getitem__(self, row: int) -> tuple[torch.Tensor, ...]:
        number, i = self.places[row]
        cache = self.caches[number]
        view = random.randrange(cache.views)
        seen = cache.pixels_of([(view, i)])[0] if self.pixels else torch.empty(0)
        return seen, self.labelled.targets[row], torch.tensor([number, i, view])

    def read(self, places: torch.Tensor, names: Sequence[str]) -> list[torch.Tensor]:
        """Arrays of a batch by its places (B, 3)."""
        return read_places([(self.caches[number], i, view) for number, i, view in places.tolist()], names)


@dataclass(frozen=True, eq=False)
class SomePhotos:
    """Some rows of other photos."""

    photos: Photos
    rows: list[int]

    @property
    def name(self) -> str:
        return self.photos.name

    @property
    def split(self) -> str:
        return self.photos.split

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, i: int) -> Image.Image:
        return self.photos.image(self.rows[i])

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.photos.fingerprint()} {self.rows}".encode()).hexdigest()


def take(labelled: LabelledSet, limit: int | None) -> LabelledSet:
    """No more than `limit` of its rows, spread out: rows often lie class by class."""
    if limit is None or limit >= len(labelled):
        return labelled
    rows = [i * len(labelled) // limit for i in range(limit)]
    chosen: dict[Photos, list[int]] = {}
    for photos, i in (labelled.photos[row] for row in rows):
        chosen.setdefault(photos, []).append(i)
    some = [(SomePhotos(photos, kept), len(kept)) for photos, kept in chosen.items()]
    places: list[tuple[Photos, int]] = [(photos, i) for photos, size in some for i in range(size)]
    return LabelledSet(labelled.classes, labelled.targets[rows], places)


def join_labelled(sets: Sequence[LabelledSet], classes: list[str] | None = None) -> LabelledSet:
    """Several sets as one, whose classes are matched by name.

    Args:
        sets: Each with one label per photo.
        classes: The classes in their order, the training split's for any other; None for the sets' own, in order.

    Raises:
        LabelError: A set has classes that `classes` lacks.
    """
    known = classes or list(dict.fromkeys(name for labelled in sets for name in labelled.classes))
    number = {name: i for i, name in enumerate(known)}
    for labelled in sets:
        used = [labelled.classes[i] for i in labelled.targets.unique().tolist()]
        if strange := [name for name in used if name not in number]:
            raise LabelError(f"{labelled.photos[0][0].name}: its validation photos have classes that the training "
                             f"photos lack: {', '.join(strange[:5])}")
    targets = [torch.tensor([number.get(name, -1) for name in labelled.classes])[labelled.targets] for labelled in sets]
    return LabelledSet(known, torch.cat(targets), [place for labelled in sets for place in labelled.photos])


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
        return _from_datasets(load_files(files), split, source=files[0], folder=folder, files=files)
    for name in SPLIT_NAMES[split]:
        if (folder / name).is_dir():
            return _read_class_folders(folder / name, folder.name, split)
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


def read_words(
        data: list[str], split: str, words: int, vocabulary: list[str] | None = None, limit: int | None = None,
) -> LabelledSet:
    """Captioned photos labelled by words: a class's weight is the share of the photo's captions that use it.

    Args:
        data: Folders in any layout of `vlcap.captions`.
        split: train or val.
        words: Size of the vocabulary, the most frequent words of these captions.
        vocabulary: The training split's words, for any other split.
        limit: No more photos than this of each folder.
    """
    sets = [read_captions(folder, split, limit=limit) for folder in data]
    photos: list[tuple[Any, int]] = [(captions, i) for captions in sets for i in range(len(captions))]
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
    return LabelledSet(vocabulary, targets, photos)


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
            return _from_datasets(load_dataset(name, split=candidate), split, source=name)
        except ValueError as error:  # datasets' answer to a split that it hasn't got
            if "split" not in str(error).lower():
                raise
        except Exception as error:
            raise LabelError(f"{name} is neither a folder here nor a data set that can be had: {error}") from None
    raise LabelError(f"data set {name} has no {split} split")


def _from_datasets(
        dataset: Any, split: str, source: str, folder: Path | None = None, files: Sequence[str] = (),
) -> LabelledSet:
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

    def digest() -> str:
        return digest_files(files) if files else str(dataset._fingerprint)

    name = folder.name if folder else source
    return _labelled(names, targets, PhotoFiles(name, split, len(targets), load, digest))


def _labelled(classes: list[str], targets: torch.Tensor, photos: PhotoFiles) -> LabelledSet:
    return LabelledSet(classes, targets, [(photos, i) for i in range(len(photos))])


def digest_files(paths: Iterable[str | Path]) -> str:
    """SHA-256 of files' names and contents."""
    digest = hashlib.sha256()
    for path in map(Path, paths):
        with open(path, "rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _read_class_folders(folder: Path, name: str, split: str) -> LabelledSet:
    """Every folder in it is a class, named by it, with the photos in and below it; one without photos is none."""
    found = {each.name: find_images([each]) for each in folder.iterdir() if each.is_dir() and each.name[0] != "."}
    names = sorted((each for each, paths in found.items() if paths != [folder / each]), key=natural_key)
    if not names:
        raise LabelError(f"{folder}: no photos in folders here: expected {folder.name}/CLASS/photo.jpg")
    paths = [path for each in names for path in found[each]]
    targets = torch.tensor([number for number, each in enumerate(names) for _ in found[each]])
    photos = PhotoFiles(name, split, len(paths), lambda i: load_image(paths[i]), lambda: digest_files(paths))
    return _labelled(names, targets, photos)
