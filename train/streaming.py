"""Labeled photos read as a stream, shard by shard: for data that doesn't fit on the disk or isn't worth copying.

    vlcap train classifier --set stream=true --set steps=100000 --data timm/imagenet-1k-wds --out RUN

caption_stream.py has captioned photos.

Hugging Face datasets opens, shards and shuffles the data (a buffer at a time). `batches.py` keeps the position: each
batch comes with its place in its stream, and a checkpoint holds the places. A resumed run continues exactly there: it
skips what it has seen of the epoch without decoding it.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from vlcap.data.files import file_size
from vlcap.data.images import load_image

from .label_files import LabelError, class_names, image_and_label, load_labeled_files, split_files


@dataclass(frozen=True)
class LabeledStream:
    """Photos with one label each, read in order, without random access.

    Args:
        classes: Names of the classes.
        dataset: Streaming Hugging Face data set, images not decoded.
        columns: Names of the image column and the label column.
        images: Number of images; None if unknown.
        files: Source of the stream: files, or a data set's name.
    """

    classes: list[str]
    dataset: Any
    columns: tuple[str, str]
    images: int | None
    files: list[str]

    def identity(self) -> str:
        """SHA-256 of the class names and of the files' names and sizes, in hex."""
        files = [(Path(file).name, file_size(file)) for file in self.files]
        return hashlib.sha256(json.dumps([self.classes, *files]).encode()).hexdigest()

    def example(
        self, row: dict[str, Any], transform: Callable[[Image.Image], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        image, target = self.item(row)
        return transform(image), target

    def item(self, row: dict[str, Any]) -> tuple[Image.Image, torch.Tensor]:
        image, label = (row[column] for column in self.columns)
        number = label["label"] if isinstance(label, dict) else label
        if not 0 <= number < len(self.classes):
            raise LabelError(f"label {number} in a stream of {len(self.classes)} classes: correct the setting classes")
        return load_image(image["bytes"] or image["path"]), torch.tensor(number)


def read_stream(data: str, split: str, classes: int | None = None) -> LabeledStream:
    """Opens a stream of labeled photos.

    Args:
        data: A folder with {split}*.parquet (columns image, label) or {split}*.tar (webdataset: jpg or png, and cls or
            json with a label), or the name of a Hugging Face data set of either form.
        split: Name of the split.
        classes: Number of classes, if neither the data set's features nor a file classes.txt in the folder name them.

    Raises:
        LabelError: The data is none of these, or its classes are unknown.
    """
    from datasets import load_dataset

    folder = Path(data)
    if folder.is_dir():
        files = split_files(folder, split)
        if not files:
            raise LabelError(f"{folder} has no {split} split to stream: expected {split}*.parquet or {split}*.tar")
        dataset = load_labeled_files(files, split, streaming=True)
    else:
        files = [data]
        try:
            dataset = load_dataset(data, split=split, streaming=True)
        except Exception as error:  # the hub's client raises many kinds, which all mean the same here
            raise LabelError(f"{data} is neither a folder here nor a data set that could be loaded: {error}") from None
    if dataset.features is None:  # webdataset: only its first examples tell
        dataset = dataset._resolve_features()
    columns = image_and_label(dataset.features, source=data)
    names = class_names(dataset.features[columns[1]], folder, classes)
    if names is None:
        raise LabelError(f"{data} doesn't name its classes: put a file classes.txt in it, or set classes=N")
    from datasets import Image as ImageFeature

    size = (dataset.info.splits or {}).get(split)
    return LabeledStream(
        names,
        dataset.cast_column(columns[0], ImageFeature(decode=False)),
        columns,
        images=size.num_examples if size else None,
        files=files,
    )


class Stream(Protocol):
    """Photos that are read in order."""

    @property
    def dataset(self) -> Any:
        """Streaming Hugging Face data set, images not decoded."""

    @property
    def images(self) -> int | None:
        """Number of images; None if unknown."""

    def example(self, row: dict[str, Any], transform: Callable[[Image.Image], torch.Tensor]) -> tuple:
        """What the trainer's `collate` takes, out of a row. Randomness comes from the global generators."""


@dataclass(frozen=True)
class StreamedPhotos:
    """A training set out of a stream: its examples, shuffled a buffer's worth at a time.

    Args:
        stream: The photos.
        transform: Augmentation and preprocessing of a photo.
        buffer: Photos in the shuffle buffer.
    """

    stream: Stream
    transform: Callable[[Image.Image], torch.Tensor]
    buffer: int
