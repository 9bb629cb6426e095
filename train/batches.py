"""Where a run's batches come from: a data set that can be indexed, or a stream.

The loop knows one `BatchSource`. It reads from any step on, and a checkpoint keeps its position, so that a resumed run
sees exactly the batches that an uninterrupted one would have seen.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, get_worker_info

from .checkpoint import CheckpointError
from .label_files import LabelError
from .recipe import Recipe
from .sampling import SeededDataset, StepBatches, seed_all
from .streaming import StreamedPhotos
from .workers import in_worker, read

Collate = Callable[[list], Any]
Place = tuple[int, int]  # epoch, examples read of it
Places = dict[int, Place]  # by stream


@dataclass(frozen=True)
class Reading:
    """How one process reads its share of the batches.

    Args:
        batch_size: Images per step, over all processes.
        seed: Random seed of order and augmentation.
        rank: Number of this process.
        world: Number of processes.
        workers: Number of data loading processes of each.
        pin_memory: Whether batches lie in pinned memory, for a GPU.
    """

    batch_size: int
    seed: int = 0
    rank: int = 0
    world: int = 1
    workers: int = 0
    pin_memory: bool = False


class BatchSource(Protocol):
    """A process's batches, one per step."""

    @property
    def images(self) -> int | None:
        """Number of training images; None if unknown."""

    def batches(self, start: int, stop: int) -> Iterator[Any]:
        """The batches of the steps from `start` to before `stop`."""

    def state_dict(self) -> list[Any]:
        """The position after the batch yielded last, of each process. Every process must call this."""

    def load_state_dict(self, state: list[Any]) -> None:
        """Goes to the position that a checkpoint holds.

        Raises:
            CheckpointError: It was written by another number of processes, and the order of batches depends on it.
        """


def batch_source(photos: Dataset | StreamedPhotos, collate: Collate, reading: Reading) -> BatchSource:
    """The source of batches for a task's training set."""
    if isinstance(photos, StreamedPhotos):
        return StreamBatches(photos, collate, reading)
    return MapBatches(photos, collate, reading)


def validation_batches(dataset: Dataset, keys: Iterable[Any], collate: Collate, recipe: Recipe) -> Iterator[Any]:
    """Batches of the items at some keys of a data set, in that order."""
    yield from read(
        DataLoader(
            Subset(dataset, list(keys)),
            batch_size=recipe.batch_size,
            collate_fn=collate,
            num_workers=recipe.workers,
            worker_init_fn=in_worker,
        )
    )


class MapBatches:
    """Batches of a data set that can be indexed. Their content depends on the seed and the step alone."""

    def __init__(self, dataset: Any, collate: Collate, reading: Reading):
        self.dataset, self.collate, self.reading = dataset, collate, reading

    @property
    def images(self) -> int:
        return len(self.dataset)

    def batches(self, start: int, stop: int) -> Iterator[Any]:
        how = self.reading
        loader = DataLoader(
            SeededDataset(self.dataset, how.seed),
            batch_sampler=StepBatches(
                self.images, how.batch_size, how.seed, start, stop, rank=how.rank, world=how.world
            ),
            collate_fn=self.collate,
            num_workers=how.workers,
            worker_init_fn=in_worker,
            pin_memory=how.pin_memory,
            prefetch_factor=4 if how.workers else None,
        )
        yield from read(loader)

    def state_dict(self) -> list[Any]:
        return []  # the step says it all

    def load_state_dict(self, state: list[Any]) -> None:
        pass


class StreamBatches:
    """Batches of a stream; `places` is where each of this process's streams is after the batch yielded last."""

    def __init__(self, photos: StreamedPhotos, collate: Collate, reading: Reading):
        self.photos, self.collate, self.reading = photos, collate, reading
        self.places: Places = {}

    @property
    def images(self) -> int | None:
        return self.photos.stream.images

    def batches(self, start: int, stop: int) -> Iterator[Any]:
        for item in read(self.loader(start, stop)):
            if item is not None:
                batch, (stream, place) = item
                self.places[stream] = tuple(place)
                yield batch

    def loader(self, start: int, stop: int) -> DataLoader:
        """Loads the steps from `start` to before `stop`: (batch, (stream, place)), or None, to be skipped."""
        how = self.reading
        photos = _StreamReader(self.photos, self.collate, how, start, stop, dict(self.places))
        return DataLoader(
            photos,
            batch_size=None,
            num_workers=photos.streams if how.workers else 0,
            pin_memory=how.pin_memory,
            worker_init_fn=in_worker,
            prefetch_factor=4 if how.workers else None,
        )

    def state_dict(self) -> list[Places]:
        return gather_object([self.places])

    def load_state_dict(self, state: list[Places]) -> None:
        if len(state) != self.reading.world:
            raise CheckpointError(
                f"{len(state)} processes have read the stream so far, now there are {self.reading.world}: "
                f"start {len(state)}, or choose another --out"
            )
        self.places = dict(state[self.reading.rank])


class _StreamReader(IterableDataset):
    """A process's batches out of a stream, each with its place.

    A process reads as many streams as it has data loading processes, each over its own shards, and takes batches from
    them in turn: the batch of step k comes from stream k modulo their number. Which photos a step sees depends on the
    seed, the number of processes, the number of data loading processes, and the step.
    """

    def __init__(
        self, photos: StreamedPhotos, collate: Collate, reading: Reading, start: int, stop: int, places: Places
    ):
        from datasets.distributed import split_dataset_by_node

        self.stream, self.transform, self.collate, self.reading = photos.stream, photos.transform, collate, reading
        self.start, self.stop, self.places = start, stop, places
        self.batch, self.first = reading.batch_size // reading.world, reading.rank * reading.batch_size // reading.world
        dataset, several = photos.stream.dataset, reading.world > 1
        self.mine = split_dataset_by_node(dataset, reading.rank, reading.world) if several else dataset
        self.buffer = photos.buffer
        self.streams = max(1, min(reading.workers, self.mine.num_shards))

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        mine = worker.id if worker else 0
        turn = self.start % self.streams
        if mine < turn:  # the loader begins with worker 0, the run with another: worker 0 skips its first turn
            yield None
        rows = self._rows(*self.places.get(mine, (0, 0)))
        for step in range(self.start + (mine - turn) % self.streams, self.stop, self.streams):
            items = []
            for i in range(self.batch):
                row, place = next(rows)
                seed_all(self.reading.seed, step * self.reading.batch_size + self.first + i)
                items.append(self.stream.example(row, self.transform))
            yield self.collate(items), (mine, place)

    def _rows(self, epoch: int, offset: int) -> Iterator[tuple[dict, Place]]:
        """The examples from a place on, over endless epochs, each with the place after it."""
        while True:
            # Not set_epoch: its number lies in memory that the data loading processes share, each at its own epoch.
            order = np.random.default_rng((self.reading.seed, epoch))
            shuffled = self.mine.shuffle(generator=order, buffer_size=self.buffer)
            for row in islice(iter(shuffled), offset, None):
                offset += 1
                yield row, (epoch, offset)
            if not offset:
                raise LabelError("the stream is empty")
            epoch, offset = epoch + 1, 0
