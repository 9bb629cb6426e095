"""Labeled photos for the classification trainer.

They come from parquet files, webdataset archives, a folder of class folders, a Hugging Face data set by name, or
captioned photos, whose labels are the words of their captions.
"""

import hashlib
import json
import random
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.utils import natural_key
from torch.utils.data import Dataset

from vlcap.data.captions import read_captions
from vlcap.data.files import split_names
from vlcap.data.images import find_images

from .cache import ViewCache, read_places
from .label_files import LabelError, class_names, image_and_label, load_labeled_files, split_files
from .photos import PhotoFiles, PhotoRows, Photos, SomePhotos, VideoFiles, origin
from .words import word_splitter

MAX_CLASSES = 1_000_000


@dataclass(frozen=True)
class LabeledSet:
    """Photos with one label each, or with a weight in 0 .. 1 for every class.

    Args:
        classes: Names of the classes.
        targets: (n,) class numbers, or (n, C) weights.
        photos: Place of each photo: (photos, row in them).
    """

    classes: list[str]
    targets: torch.Tensor
    photos: list[tuple[Photos, int]]

    def __len__(self) -> int:
        return len(self.targets)

    def identity(self) -> str:
        """SHA-256 of the photos' names, sizes and labels, in hex; independent of the folder that holds them."""
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

    def clip(self, row: int, frames: int) -> list[Image.Image]:
        """So many frames of the video of a row, spread evenly over its time."""
        videos, i = origin(*self.photos[row])
        assert isinstance(videos, VideoFiles), "check_kind of clips.py refuses photos"
        return videos.clip(i, frames)


class LabeledPhotos(Dataset):
    """(transformed photo, target) pairs of a `LabeledSet`."""

    def __init__(self, labeled: LabeledSet, transform: Callable[[Image.Image], torch.Tensor]):
        self.labeled, self.transform = labeled, transform

    def __len__(self) -> int:
        return len(self.labeled)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, ...]:
        return self.transform(self.labeled.load(row)), self.labeled.targets[row]


class CachedPhotos(LabeledPhotos):
    """(pixels, target, place) triples; a place in the caches is (number of the cache, row in it, view).

    Args:
        labeled: The photos.
        caches: Cache of each source of photos.
        pixels: Whether to load the view's pixels; if not, they are an empty tensor, and the caches hold everything.
    """

    def __init__(self, labeled: LabeledSet, caches: Mapping[Photos, ViewCache], pixels: bool):
        super().__init__(labeled, transform=lambda photo: photo)
        self.caches = list(caches.values())
        number = {photos: i for i, photos in enumerate(caches)}
        self.places = [(number[photos], i) for photos, i in labeled.photos]
        self.pixels = pixels

    def __getitem__(self, row: int) -> tuple[torch.Tensor, ...]:
        number, i = self.places[row]
        cache = self.caches[number]
        view = random.randrange(cache.views)
        seen = cache.pixels_of([(view, i)])[0] if self.pixels else torch.empty(0)
        return seen, self.labeled.targets[row], torch.tensor([number, i, view])

    def read(self, places: torch.Tensor, names: Sequence[str]) -> list[torch.Tensor]:
        """Arrays of a batch by its places (B, 3)."""
        return read_places([(self.caches[number], i, view) for number, i, view in places.tolist()], names)


def limited(labeled: LabeledSet, limit: int | None) -> LabeledSet:
    """At most `limit` rows, evenly spaced: rows are often sorted by class."""
    if limit is None or limit >= len(labeled):
        return labeled
    rows = [i * len(labeled) // limit for i in range(limit)]
    chosen: dict[Photos, list[int]] = {}
    for photos, i in (labeled.photos[row] for row in rows):
        chosen.setdefault(photos, []).append(i)
    some = [(SomePhotos(photos, kept), len(kept)) for photos, kept in chosen.items()]
    places: list[tuple[Photos, int]] = [(photos, i) for photos, size in some for i in range(size)]
    return LabeledSet(labeled.classes, labeled.targets[rows], places)


def join_labeled(sets: Sequence[LabeledSet], classes: list[str] | None = None) -> LabeledSet:
    """Joins sets with one label per photo; classes are matched by name.

    Args:
        sets: The sets.
        classes: Classes of the training split, for any other split; None: all classes of the sets.

    Raises:
        LabelError: A photo belongs to a class that the training split lacks.
    """
    if classes is None:
        alone = len(sets) == 1
        classes = sets[0].classes if alone else list(dict.fromkeys(name for each in sets for name in each.classes))
    matched = [match_classes(each, classes, each.photos[0][0].name) for each in sets]
    return LabeledSet(
        classes, torch.cat([each.targets for each in matched]), [place for each in matched for place in each.photos]
    )


def read_labeled(data: str, split: str) -> LabeledSet:
    """Photos with one label each.

    Args:
        data: A folder with {split}*.parquet (columns image, label) or {split}*.tar (webdataset: jpg or png, and cls), a
            folder with {split}/{class}/photos, or the name of a Hugging Face data set.
        split: train, val or test.

    Raises:
        LabelError: The data is none of these, or the split is missing.
    """
    folder = Path(data)
    if not folder.exists():
        return _read_hub(data, split)
    if files := split_files(folder, split):
        return _from_datasets(load_labeled_files(files), split, source=files[0], folder=folder)
    for name in split_names(split):
        if (folder / name).is_dir():
            return _read_class_folders(folder / name, folder.name, split)
    raise LabelError(
        f"{folder} has no {split} split: expected {split}*.parquet with columns image and label, {split}*.tar, "
        f"or {split}/CLASS/photo.jpg; {split} may be called {' or '.join(split_names(split))}"
    )


def match_classes(labeled: LabeledSet, classes: list[str], data: str) -> LabeledSet:
    """Renumbers a split's classes as in the training split. Classes are the same if their names are.

    Args:
        labeled: The split.
        classes: Classes of the training split.
        data: Name of the data, for messages.

    Raises:
        LabelError: A photo belongs to a class that the training split lacks, or two classes have the same name.
    """
    if labeled.classes == classes:
        return labeled
    ours, theirs = ([unicodedata.normalize("NFC", name) for name in names] for names in (classes, labeled.classes))
    for names in (ours, theirs):
        if len(set(names)) < len(names):
            name, times = Counter(names).most_common(1)[0]
            raise LabelError(f"{data}: {times} classes are called {name!r:.100}, and the splits' lists of them differ")
    number = {name: n for n, name in enumerate(ours)}
    used = labeled.targets.unique().tolist()
    if unknown := [theirs[n] for n in used if theirs[n] not in number]:
        raise LabelError(
            f"{data} has {len(unknown)} classes that the training lacks: "
            f"{', '.join(f'{name!r:.60}' for name in unknown[:5])}{', ...' if len(unknown) > 5 else ''}. "
            f"The training has {', '.join(f'{name!r:.60}' for name in ours[:5])}{', ...' if len(ours) > 5 else ''}"
        )
    table = torch.tensor([number.get(name, -1) for name in theirs])
    return replace(labeled, classes=classes, targets=table[labeled.targets])


def read_words(
    data: list[str],
    split: str,
    words: int,
    vocabulary: list[str] | None = None,
    limit: int | None = None,
) -> LabeledSet:
    """Captioned photos labeled by words: a word's weight is the share of the photo's captions that use it.

    Args:
        data: Folders in any layout of `vlcap.data.captions`.
        split: train or val.
        words: Size of the vocabulary: the most frequent words of these captions.
        vocabulary: Words of the training split, for any other split.
        limit: Maximum number of photos from each folder.

    Raises:
        LabelError: No caption has a word of the vocabulary.
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
            + ": there is nothing to learn or evaluate"
        )
    return LabeledSet(vocabulary, targets, photos)


def _read_hub(name: str, split: str) -> LabeledSet:
    from datasets import load_dataset

    for candidate in split_names(split):
        try:
            return _from_datasets(load_dataset(name, split=candidate), split, source=name)
        except ValueError as error:  # datasets raises it for a split that is missing
            if "split" not in str(error).lower():
                raise
        except Exception as error:
            raise LabelError(f"{name} is neither a folder here nor a data set that could be loaded: {error}") from None
    raise LabelError(f"data set {name} has no {split} split")


def _from_datasets(
    dataset: Any,
    split: str,
    source: str,
    folder: Path | None = None,
) -> LabeledSet:
    from datasets import Image as ImageFeature

    image, label = image_and_label(dataset.features, source)
    try:
        labels = dataset[label][:]
        targets = torch.tensor([each["label"] for each in labels] if label == "json" else labels, dtype=torch.long)
        photos = dataset.cast_column(image, ImageFeature(decode=False))
    except Exception as error:  # from Arrow, datasets or torch: the values don't fit the columns' names
        raise LabelError(
            f"{source}: the columns {image} and {label} must hold photos and class numbers "
            f"({' '.join(str(error).split()):.200})"
        ) from None
    if targets.ndim != 1 or not len(targets) or targets.min() < 0 or targets.max() > MAX_CLASSES:
        raise LabelError(f"{source}: the column {label} must hold one number per photo, 0 to {MAX_CLASSES}")
    names = class_names(dataset.features[label], folder, int(targets.max()) + 1)
    if names is None or targets.max() >= len(names):
        raise LabelError(f"{source}: label {int(targets.max())}, but only {len(names or [])} classes are named")

    photos_in = PhotoRows(folder.name if folder else source, split, photos, image, source, trusted=folder is None)
    return _labeled(names, targets, photos_in)


def _labeled(classes: list[str], targets: torch.Tensor, photos: Photos) -> LabeledSet:
    return LabeledSet(classes, targets, [(photos, i) for i in range(len(photos))])


def _read_class_folders(folder: Path, name: str, split: str) -> LabeledSet:
    """Each subfolder with photos in or below it is a class, named after it; with videos, if no subfolder has photos.

    Warns of everything that is skipped: unreadable folders, folders without photos, and files that aren't images.
    """
    folders = sorted(each for each in folder.iterdir() if each.is_dir() and each.name[0] != ".")
    # Normalized: some systems store accented letters composed, others decomposed, and data is copied between them.
    found, kind = {unicodedata.normalize("NFC", each.name): find_images([each]) for each in folders}, PhotoFiles
    if not any(inside.images and inside.images[0] not in folders for inside in found.values()):
        found = {unicodedata.normalize("NFC", each.name): find_images([each], videos=True) for each in folders}
        kind = VideoFiles
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
    photos = kind(name, split, paths, [path.relative_to(folder).as_posix() for path in paths])
    return _labeled(names, targets, photos)
