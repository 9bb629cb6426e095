"""Labelled photos for the classification trainer.

From parquet files, webdataset archives, a folder of class folders, a Hugging Face data set by name, or captioned
photos, whose labels are the words that people used for them.
"""

import hashlib
import json
import os
import random
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.utils import natural_key
from torch.utils.data import Dataset

from vlcap.data import files as data_files
from vlcap.data.captions import read_captions
from vlcap.data.files import file_size, split_names
from vlcap.data.images import ImageError, find_images, load_image
from vlcap.errors import VlcapError

from .cache import Photos, ViewCache, read_places
from .words import word_splitter

MAX_CLASSES = 1_000_000


class LabelError(VlcapError, ValueError):
    """Labelled photos that can't be used: where, what is wrong, what is expected."""


@dataclass(frozen=True, eq=False)
class PhotoFiles:
    """Photos that are files of a split.

    An object and no closure, as all photos are: whoever loads them may be another process.
    """

    name: str
    split: str
    paths: list[Path]
    names: list[str]

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, i: int) -> Image.Image:
        return load_image(self.paths[i])

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, path in zip(self.names, self.paths, strict=True):
            with open(path, "rb") as file:
                digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()

    def identity(self) -> str:
        listing = [(name, file_size(path)) for name, path in zip(self.names, self.paths, strict=True)]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class PhotoRows:
    """Photos in a column of a Hugging Face data set.

    Args:
        name: Name of the data set.
        split: train or val.
        rows: The data set, images not decoded.
        column: The column's name.
        source: The data set's file, for messages.
        trusted: Whether a row may name a file here.
    """

    name: str
    split: str
    rows: Any
    column: str
    source: str
    trusted: bool

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, i: int) -> Image.Image:
        cell, name = self.rows[i][self.column], f"row {i} of {self.source}"
        if cell and cell["bytes"]:
            return load_image(cell["bytes"], name=name)
        if not self.trusted or not cell or not cell["path"]:
            raise ImageError(f"{name}: no photo in it, only {'its path' if cell else 'nothing'}: embed the photos")
        return load_image(cell["path"])

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(hashlib.sha256((row[self.column] or {}).get("bytes") or b"").digest())
        return digest.hexdigest()

    def identity(self) -> str:
        return hashlib.sha256(json.dumps(list(self._listing())).encode()).hexdigest()

    def _listing(self) -> Iterator[tuple[str, int]]:
        """Names and sizes in bytes, row by row."""
        import pyarrow.compute as compute

        images = self.rows.with_format("arrow")[self.column][:]
        names = (os.path.basename(path or "") for path in compute.struct_field(images, "path").to_pylist())
        sizes = (size or 0 for size in compute.binary_length(compute.struct_field(images, "bytes")).to_pylist())
        return zip(names, sizes, strict=True)


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

    def identity(self) -> str:
        """SHA-256 of the photos' names and sizes and of their labels, in hex; the folder they lie in is left out."""
        sources = dict.fromkeys(photos for photos, _ in self.photos)
        digest = hashlib.sha256(json.dumps([self.classes, *(photos.identity() for photos in sources)]).encode())
        digest.update(self.targets.numpy().tobytes())
        return digest.hexdigest()

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

    def identity(self) -> str:
        return hashlib.sha256(f"{self.photos.identity()} {self.rows}".encode()).hexdigest()


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
    """Several sets with one label per photo as one, whose classes are matched by name.

    Args:
        sets: The sets.
        classes: The training split's classes, for any other split; None for the sets' own, one after the other.

    Raises:
        LabelError: A photo is of a class that the training split lacks.
    """
    if classes is None:
        alone = len(sets) == 1
        classes = sets[0].classes if alone else list(dict.fromkeys(name for each in sets for name in each.classes))
    matched = [match_classes(each, classes, each.photos[0][0].name) for each in sets]
    return LabelledSet(
        classes, torch.cat([each.targets for each in matched]), [place for each in matched for place in each.photos]
    )


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
        return _from_datasets(load_files(files), split, source=files[0], folder=folder)
    for name in split_names(split):
        if (folder / name).is_dir():
            return _read_class_folders(folder / name, folder.name, split)
    raise LabelError(
        f"{folder} has no {split} split: expected {split}*.parquet with columns image and label, {split}*.tar, "
        f"or {split}/CLASS/photo.jpg; {split} may be called {' or '.join(split_names(split))}"
    )


def match_classes(labelled: LabelledSet, classes: list[str], data: str) -> LabelledSet:
    """The same photos, with the numbers that the training split's classes have: classes are one if their names are.

    Args:
        labelled: Another split.
        classes: The training split's.
        data: What both are called, for messages.

    Raises:
        LabelError: A photo is of a class that the training split lacks, or a name stands for two classes.
    """
    if labelled.classes == classes:
        return labelled
    ours, theirs = ([unicodedata.normalize("NFC", name) for name in names] for names in (classes, labelled.classes))
    for names in (ours, theirs):
        if len(set(names)) < len(names):
            name, times = Counter(names).most_common(1)[0]
            raise LabelError(f"{data}: {times} classes are called {name!r:.100}, and the splits' lists of them differ")
    number = {name: n for n, name in enumerate(ours)}
    used = labelled.targets.unique().tolist()
    if unknown := [theirs[n] for n in used if theirs[n] not in number]:
        raise LabelError(
            f"{data}: the validation split has {len(unknown)} classes that the training split lacks: "
            f"{', '.join(f'{name!r:.60}' for name in unknown[:5])}{', ...' if len(unknown) > 5 else ''}. "
            f"Training has {', '.join(f'{name!r:.60}' for name in ours[:5])}{', ...' if len(ours) > 5 else ''}"
        )
    table = torch.tensor([number.get(name, -1) for name in theirs])
    return replace(labelled, classes=classes, targets=table[labelled.targets])


def split_files(folder: Path, split: str) -> list[str]:
    """The parquet files, or else webdataset archives, of a split."""
    for name in split_names(split):
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
    data: list[str],
    split: str,
    words: int,
    vocabulary: list[str] | None = None,
    limit: int | None = None,
) -> LabelledSet:
    """Captioned photos labelled by words: a class's weight is the share of the photo's captions that use it.

    Args:
        data: Folders in any layout of `vlcap.data.captions`.
        split: train or val.
        words: Size of the vocabulary, the most frequent words of these captions.
        vocabulary: The training split's words, for any other split.
        limit: No more photos than this of each folder.
    """
    sets = [read_captions(folder, split, limit=limit) for folder in data]
    photos: list[tuple[Any, int]] = [(captions, i) for captions in sets for i in range(len(captions))]
    texts = [captions for each in sets for captions in each.captions]
    trained = (
        texts
        if split == "train"
        else [captions for folder in data for captions in read_captions(folder, "train", limit=limit).captions]
    )
    split_words = word_splitter(text for captions in trained for text in captions)
    used = [[split_words(text) for text in captions] for captions in texts]
    if vocabulary is None:
        counts = Counter(word for captions in used for word in set().union(*captions))
        vocabulary = sorted(counts, key=lambda word: (-counts[word], word))[:words]
    number = {word: n for n, word in enumerate(vocabulary)}
    targets = torch.zeros(len(texts), len(vocabulary))
    for row, captions in zip(targets, used, strict=True):
        for caption in captions:
            for word in caption & number.keys():
                row[number[word]] += 1 / len(captions)
    if not targets.any():
        raise LabelError(
            f"{', '.join(data)}: no caption of the {split} split has a word"
            + (" of the training split's" if vocabulary else "")
            + ": there is nothing to learn or to evaluate"
        )
    return LabelledSet(vocabulary, targets, photos)


def load_files(files: list[str], split: str = "train", streaming: bool = False) -> Any:
    """A split's parquet files or webdataset archives as a data set of Hugging Face's.

    Raises:
        LabelError: They can't be read, or number their classes differently.
    """
    with data_files.readable(files[0], file_kind(files), LabelError):
        _check_class_numbers(files)
        return data_files.load_files(files, file_kind(files), split, streaming)


def _check_class_numbers(files: list[str]) -> None:
    """datasets takes the first file's names of classes for all: the others' numbers have to mean the same."""
    if file_kind(files) != "parquet" or len(files) == 1:
        return
    import datasets
    import pyarrow.parquet

    def names(file: str) -> list[str] | None:
        features = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(file))
        return getattr(features.get("label"), "names", None)

    first = names(files[0])
    if other := next((file for file in files[1:] if names(file) != first), None):
        raise LabelError(f"{other}: its classes are not numbered as those of {files[0]}: write both with one list")


def _read_hub(name: str, split: str) -> LabelledSet:
    from datasets import load_dataset

    for candidate in split_names(split):
        try:
            return _from_datasets(load_dataset(name, split=candidate), split, source=name)
        except ValueError as error:  # datasets' answer to a split that it hasn't got
            if "split" not in str(error).lower():
                raise
        except Exception as error:
            raise LabelError(f"{name} is neither a folder here nor a data set that can be had: {error}") from None
    raise LabelError(f"data set {name} has no {split} split")


def _from_datasets(
    dataset: Any,
    split: str,
    source: str,
    folder: Path | None = None,
    files: Sequence[str] = (),
) -> LabelledSet:
    from datasets import Image as ImageFeature

    image, label = image_and_label(dataset.features, source)
    try:
        labels = dataset[label][:]
        targets = torch.tensor([each["label"] for each in labels] if label == "json" else labels, dtype=torch.long)
        photos = dataset.cast_column(image, ImageFeature(decode=False))
    except Exception as error:  # of Arrow, datasets and torch, about values that aren't what the columns' names say
        raise LabelError(
            f"{source}: the columns {image} and {label} aren't photos and numbers of classes "
            f"({' '.join(str(error).split()):.200})"
        ) from None
    if targets.ndim != 1 or not len(targets) or targets.min() < 0 or targets.max() > MAX_CLASSES:
        raise LabelError(f"{source}: the column {label} has to hold one number for each photo, 0 to {MAX_CLASSES}")
    names = class_names(dataset.features[label], folder, int(targets.max()) + 1)
    if names is None or targets.max() >= len(names):
        raise LabelError(f"{source}: label {int(targets.max())} of {len(names or [])} classes")

    photos_in = PhotoRows(folder.name if folder else source, split, photos, image, source, trusted=folder is None)
    return _labelled(names, targets, photos_in)


def _labelled(classes: list[str], targets: torch.Tensor, photos: Photos) -> LabelledSet:
    return LabelledSet(classes, targets, [(photos, i) for i in range(len(photos))])


def _read_class_folders(folder: Path, name: str, split: str) -> LabelledSet:
    """Every folder in it is a class, named by it, with the photos in and below it; one without photos is none.

    What is left out is warned of: folders that can't be read, those without photos, and files that are no images.
    """
    folders = sorted(each for each in folder.iterdir() if each.is_dir() and each.name[0] != ".")
    # By one spelling: letters with accents are composed on one system and not on another, of which the copy may come.
    found = {unicodedata.normalize("NFC", each.name): find_images([each]) for each in folders}
    empty = {each for each, inside in found.items() if inside.images and inside.images[0] in folders}
    for remark in [remark for each in sorted(found) for remark in found[each].remarks()]:
        warnings.warn(remark, stacklevel=2)
    if empty:
        warnings.warn(f"{folder}: skipped folders without images: {', '.join(sorted(empty)[:10])}", stacklevel=2)
    names = sorted((each for each, inside in found.items() if inside.images and each not in empty), key=natural_key)
    if not names:
        raise LabelError(f"{folder}: no photos in folders here: expected {folder.name}/CLASS/photo.jpg")
    paths = [path for each in names for path in found[each].images]
    targets = torch.tensor([number for number, each in enumerate(names) for _ in found[each].images])
    photos = PhotoFiles(name, split, paths, [path.relative_to(folder).as_posix() for path in paths])
    return _labelled(names, targets, photos)
