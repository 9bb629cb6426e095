"""Labelled photos that don't fit on the disk, or aren't worth a copy: read in a stream, shard by shard.

    vlcap train classifier --set stream=true --set steps=100000 --data timm/imagenet-1k-wds --out RUN

Hugging Face datasets opens, shards and shuffles (a buffer's worth at a time). What is ours is the bookkeeping: each
batch comes with its place in its stream, a checkpoint keeps the places, and a resumed run reads on from there, exactly,
by passing over what it has seen of the epoch without decoding it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from vlcap.data.files import file_size
from vlcap.data.images import load_image

from .labels import LabelError, class_names, image_and_label, load_files, split_files
from .sampling import in_worker, seed_all

Places = dict[int, tuple[int, int]]  # stream -> (epoch, examples read of it)


@dataclass(frozen=True)
class LabelledStream:
    """Photos with one label each, in no order that can be asked for.

    Args:
        classes: Their names.
        dataset: A streaming Hugging Face data set, images not decoded.
        columns: Its image and its label column.
        images: How many there are, if anybody has said.
        files: What it is read from: a data set's name, or files.
    """

    classes: list[str]
    dataset: Any
    columns: tuple[str, str]
    images: int | None
    files: list[str]

    def identity(self) -> str:
        """SHA-256 of the classes and of the files' names and sizes, in hex."""
        files = [(Path(file).name, file_size(file)) for file in self.files]
        return hashlib.sha256(json.dumps([self.classes, *files]).encode()).hexdigest()

    def item(self, row: dict[str, Any]) -> tuple[Image.Image, torch.Tensor]:
        image, label = (row[column] for column in self.columns)
        number = label["label"] if isinstance(label, dict) else label
        if not 0 <= number < len(self.classes):
            raise LabelError(f"label {number} in a stream of {len(self.classes)} classes: set classes to their number")
        return load_image(image["bytes"] or image["path"]), torch.tensor(number)


def read_stream(data: str, split: str, classes: int | None = None) -> LabelledStream:
    """A stream of labelled photos.

    Args:
        data: A folder with {split}*.parquet (columns image, label) or {split}*.tar (webdataset: jpg or png, and cls or
            json with a label), or the name of a Hugging Face data set of either form.
        split: Of the data set.
        classes: Their number, where neither the data set's features nor a file classes.txt in the folder names them.

    Raises:
        LabelError: None of these, or nobody says which classes there are.
    """
    from datasets import load_dataset

    folder = Path(data)
    if folder.is_dir():
        files = split_files(folder, split)
        if not files:
            raise LabelError(f"{folder} has no {split} split to stream: expected {split}*.parquet or {split}*.tar")
        dataset = load_files(files, split, streaming=True)
    else:
        files = [data]
        try:
            dataset = load_dataset(data, split=split, streaming=True)
        except Exception as error:  # the hub's client has many; all mean the same here
            raise LabelError(f"{data} is neither a folder here nor a data set that can be had: {error}") from None
    if dataset.features is None:  # known only by looking, as for webdataset
        dataset = dataset._resolve_features()
    columns = image_and_label(dataset.features, source=data)
    names = class_names(dataset.features[columns[1]], folder, classes)
    if names is None:
        raise LabelError(f"{data} doesn't say which classes there are: a file classes.txt in it, or set classes=N")
    from datasets import Image as ImageFeature

    size = (dataset.info.splits or {}).get(split)
    return LabelledStream(
        names,
        dataset.cast_column(columns[0], ImageFeature(decode=False)),
        columns,
        images=size.num_examples if size else None,
        files=files,
    )


class StreamedPhotos(IterableDataset):
    """Batches of (transformed photo, target) pairs out of a `LabelledStream`, each with its place.

    A process reads as many streams as it has workers, each its own shards, and takes batches from them in turn: step
    k's comes of stream k modulo their number. Which photos a step sees follows from the seed, the number of processes,
    of workers and of the step.
    """

    def __init__(self, stream: LabelledStream, transform: Callable[[Image.Image], torch.Tensor], buffer: int):
        self.stream, self.transform, self.buffer = stream, transform, buffer

    def loader(
        self,
        collate: Callable,
        seed: int,
        batch_size: int,
        start: int,
        stop: int,
        places: Places,
        rank: int,
        world: int,
        workers: int,
        pin_memory: bool,
    ) -> DataLoader:
        """Batches of the steps from `start` to before `stop`: (batch, (stream, place)), or None to be passed over."""
        from datasets.distributed import split_dataset_by_node

        self.collate, self.seed, self.start, self.stop, self.places = collate, seed, start, stop, places
        self.batch, self.first = batch_size // world, rank * batch_size // world
        self.global_batch = batch_size
        shuffled = self.stream.dataset.shuffle(seed=seed, buffer_size=self.buffer)
        self.mine = split_dataset_by_node(shuffled, rank=rank, world_size=world) if world > 1 else shuffled
        self.streams = max(1, min(workers, self.mine.num_shards))
        return DataLoader(
            self,
            batch_size=None,
            num_workers=self.streams if workers else 0,
            pin_memory=pin_memory,
            worker_init_fn=in_worker,
            prefetch_factor=4 if workers else None,
        )

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        mine = worker.id if worker else 0
        turn = self.start % self.streams
        if mine < turn:  # the loader begins with worker 0, the run with another: worker 0 stands back once
            yield None
        rows = self._rows(*self.places.get(mine, (0, 0)))
        for step in range(self.start + (mine - turn) % self.streams, self.stop, self.streams):
            items = []
            for i in range(self.batch):
                row, place = next(rows)
                image, target = self.stream.item(row)
                seed_all(self.seed, step * self.global_batch + self.first + i)
                items.append((self.transform(image), target))
            yield self.collate(items), (mine, place)

    def _rows(self, epoch: int, offset: int) -> Iterator[tuple[dict, tuple[int, int]]]:
        while True:
            self.mine.set_epoch(epoch)
            for row in islice(iter(self.mine), offset, None):
                offset += 1
                yield row, (epoch, offset)
            if not offset:
                raise LabelError("the stream is empty")
            epoch, offset = epoch + 1, 0
