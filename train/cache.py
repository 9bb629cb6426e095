"""Caches of frozen networks' outputs: computed once per view of a photo, then read through memory maps.

LiT's appendix G: with a frozen image encoder, precomputed embeddings pay off after one epoch. The same holds for a
frozen trunk's features and for a teacher's logits. A teacher must see the same crop as its student (L. Beyer et al.,
"Knowledge distillation: a good teacher is patient and consistent", arXiv 2106.05237); fixed views ensure this.

A folder holds the arrays of one set of views. Its name is a digest of everything that the views depend on: the content
of the data, the preprocessing, the augmentation. A file's name includes a digest of the weights that computed it. So a
stale array can't be mistaken for a fresh one, and runs share what they have in common.
"""

import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self

import numpy as np
import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import track

from encoders.interface import RATES
from vlcap.data.captions import CaptionSet
from vlcap.data.images import PixelConfig
from vlcap.errors import VlcapError
from vlcap.files.writing import replacing
from vlcap.model.encoder import Encoder, digest_weights

from .frozen import Frozen
from .photos import Photos, Transform, take
from .sampling import seed_all

FORMAT = 2  # part of the folder's key: raise it when the files' content changes
# Arguments of encoders that leave the tokens of a budget as they are, or whose effect is in weights and pixels.
NOT_OF_TOKENS = ("num_classes", "budget", "budgets", "img_size", "drop_rate", *RATES)
CHUNK = 64  # photos encoded at a time, and lost at most if interrupted


class CacheError(VlcapError, RuntimeError):
    """Arrays that can't be cached: where and why."""


class ViewCache:
    """Arrays that a frozen network computes from each photo, for some views of it.

    View 0 is the photo as in evaluation. The others are augmented, each with its own seed, so that the pixels of any
    view can be computed again (`pixels_of`).

    Args:
        root: Folder of all caches.
        photos: The photos.
        pixels: Preprocessing of the photos.
        shapes: Shape of one photo's array, by name.
        keys: Digest of the network that computes the array, by name.
        what: Description of the arrays, for the progress line.
        views: Views per photo.
        augmentation: Arguments of `PixelConfig.train_transform` for the views after the first.
        seed: Random seed of the augmentation.
    """

    NETWORKS: ClassVar[tuple[str, ...]] = ()  # attributes that are not sent to data loading processes

    def __init__(
        self,
        root: Path,
        photos: Photos,
        pixels: PixelConfig,
        shapes: dict[str, tuple[int, ...]],
        keys: dict[str, str],
        what: str,
        views: int = 1,
        augmentation: dict[str, Any] | None = None,
        seed: int = 0,
    ):
        self.photos, self.pixels, self.what, self.views = photos, pixels, what, views
        self.shapes = shapes
        self.files = {name: f"{name}-{keys[name][:16]}" for name in shapes}
        self.augmentation, self.seed = augmentation or {}, seed
        parts = {
            "format": FORMAT,
            "pixels": pixels.to_dict(),
            "data": photos.fingerprint(),
            "augmentation": self.augmentation if views > 1 else {},
            "seed": seed if views > 1 else 0,
        }
        self.folder = root / hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
        self._plain, self._augment = pixels.eval_transform(), pixels.train_transform(**self.augmentation)
        self._maps: dict[tuple[str, int], np.memmap] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For data loading processes: they need the pixels and the number of views, but no network and no arrays."""
        return {**self.__dict__, **dict.fromkeys(self.NETWORKS), "_maps": {}}

    def compute(self, places: list[tuple[int, int]]) -> dict[str, np.ndarray]:
        """Computes the arrays of some (view, photo) places, by name; their first dimension is the place."""
        raise NotImplementedError

    def pixels_of(self, places: Iterable[tuple[int, int]]) -> torch.Tensor:
        """uint8 pixels (B, 3, S, S) of some (view, photo) places; of clips, (B, T, 3, S, S)."""
        photos = []
        for view, photo in places:
            seed_all(self.seed, view, photo)
            photos.append(self.take(photo, self._augment if view else self._plain))
        return torch.stack(photos)

    def take(self, photo: int, transform: Transform) -> torch.Tensor:
        """One photo, transformed: uint8 (3, S, S); one clip, (T, 3, S, S)."""
        return transform(self.photos.image(photo))

    def size(self) -> int:
        """Size on disk in bytes when complete."""
        return self.views * len(self.photos) * sum(math.prod(shape) for shape in self.shapes.values()) * 2

    def fill(self) -> Self:
        """Computes what is missing. Resumes where it was interrupted, and waits if another run is filling the cache.

        Raises:
            CacheError: The disk is too small.
            ImageError: A photo can't be read.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            self._fill()
        return self

    def _fill(self) -> None:
        path = self.folder / "progress.json"
        done = json.loads(path.read_text()) if path.exists() else {}  # by file: number of photos done, over all views
        total = self.views * len(self.photos)
        first = min(done.get(file, 0) for file in self.files.values())
        if first >= total:
            return
        self._check_disk()
        what = f"caching {self.what} of {self.photos.name} {self.photos.split}, {self.size() / 1e6:.0f} MB"
        todo = f"{total - first} of {total} photos to encode, in {self.folder}"
        console = Console(file=sys.stderr)
        console.print(f"{what}, {todo}", highlight=False, soft_wrap=True)
        for start in track(range(first, total, CHUNK), description=what, console=console, transient=True):
            stop = min(start + CHUNK, total)
            self._write(range(start, stop), {name for name, file in self.files.items() if done.get(file, 0) < stop})
            done |= {file: max(stop, done.get(file, 0)) for file in self.files.values()}
            with replacing(path) as written:
                json.dump(done, written)

    def read(self, name: str, photos: Sequence[int], view: int) -> torch.Tensor:
        """One array of some photos, float32; the first dimension is the photo."""
        return torch.from_numpy(self._map(name, view)[list(photos)]).float()

    def _write(self, rows: range, wanted: set[str]) -> None:
        places = [divmod(row, len(self.photos)) for row in rows]  # (view, photo)
        for name, arrays in self.compute(places).items():
            if name not in wanted:
                continue
            for (view, photo), array in zip(places, arrays, strict=True):
                self._map(name, view, write=True)[photo] = array
            for view in {view for view, _ in places}:
                self._map(name, view, write=True).flush()

    def _map(self, name: str, view: int, write: bool = False) -> np.memmap:
        if (name, view) not in self._maps:
            path = self.folder / f"{self.files[name]}-view{view}.npy"
            if write and not path.exists():
                self._allocate(path, (len(self.photos), *self.shapes[name]))
            self._maps[name, view] = np.load(path, mmap_mode="r+" if write else "r")
        return self._maps[name, view]

    def _allocate(self, path: Path, shape: tuple[int, ...]) -> None:
        """Makes an array's file and reserves its disk space: writing to a map on a full disk kills the process."""
        temporary = path.with_suffix(".tmp")
        try:
            np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape).flush()
            with open(temporary, "r+b") as file:
                _reserve(file, temporary.stat().st_size)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise self._too_small(shutil.disk_usage(self.folder).free) from error
        os.replace(temporary, path)

    def _check_disk(self) -> None:
        """Checks, before encoding the first photo, that the disk has room for what isn't reserved yet."""
        files = (path for file in self.files.values() for path in self.folder.glob(f"{file}-view*.npy"))
        there = sum(path.stat().st_size for path in files)
        if self.size() - there > (free := shutil.disk_usage(self.folder).free):
            raise self._too_small(free)

    def _too_small(self, free: int) -> CacheError:
        return CacheError(
            f"{self.folder}: the {self.what} need {self.size() / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free: "
            "use fewer cache_views or budgets, or another disk"
        )


class FrozenCache(ViewCache):
    """Cache of a frozen network's outputs for each photo: a trunk's feature maps, a teacher's logits (frozen.py).

    Args:
        root: Folder of all caches.
        photos: The photos.
        frozen: The network.
        kwargs: views, augmentation and seed of `ViewCache`.
    """

    NETWORKS = ("frozen",)

    def __init__(self, root: Path, photos: Photos, frozen: Frozen, **kwargs: Any):
        what = " and ".join(["trunk features"] * bool(frozen.maps) + ["a teacher's outputs"] * frozen.has_teacher)
        super().__init__(root, photos, frozen.pixels, frozen.shapes(), frozen.keys(), what, **kwargs)
        self.frozen = frozen

    def compute(self, places: list[tuple[int, int]]) -> dict[str, np.ndarray]:
        return dict(zip(self.shapes, self.frozen.run(self.pixels_of(places), len(self.photos)), strict=True))


class TokenCache(ViewCache):
    """Cache of an encoder's tokens at some budgets.

    Args:
        root: Folder of all caches.
        encoder: The frozen encoder.
        captions: The photos.
        budgets: Sides of the compressed grid.
        features: Cache of the same views' trunk features, for an encoder with a trunk: its blocks read them.
        kwargs: views, augmentation and seed of `ViewCache`.
    """

    NETWORKS = ("encoder", "features")

    def __init__(
        self,
        root: Path,
        encoder: Encoder,
        captions: CaptionSet,
        budgets: Sequence[int],
        features: FrozenCache | None = None,
        **kwargs: Any,
    ):
        self.encoder, self.captions, self.budgets, self.features = encoder, captions, sorted(budgets), features
        self.frames = encoder.frames
        shapes: dict[str, tuple[int, ...]] = {
            f"budget{budget}": (encoder.token_count(budget), encoder.config.hidden_size) for budget in self.budgets
        }
        config = encoder.config
        key = f"{digest_weights(encoder)} {config.architecture}"
        if own := {name: value for name, value in config.model_args.items() if name not in NOT_OF_TOKENS}:
            key += f" {json.dumps(own, sort_keys=True)}"  # the same weights under other arguments give other tokens
        digest = hashlib.sha256(key.encode()).hexdigest()
        super().__init__(root, captions, encoder.pixels, shapes, dict.fromkeys(shapes, digest), "tokens", **kwargs)

    def take(self, photo: int, transform: Transform) -> torch.Tensor:
        return take(self.captions, photo, transform, self.frames)

    def compute(self, places: list[tuple[int, int]]) -> dict[str, np.ndarray]:
        device = self.encoder.device
        if self.features is None:
            seen: Any = self.encoder.normalize(self.pixels_of(places).to(device))
        else:
            seen = [
                each.to(device)
                for each in read_places(
                    [(self.features, photo, view) for view, photo in places], self.features.frozen.maps
                )
            ]
        with torch.inference_mode():
            return {
                f"budget{budget}": self.encoder(seen, budget=budget).last_hidden_state.half().cpu().numpy()
                for budget in self.budgets
            }


def read_places(places: Sequence[tuple[ViewCache, int, int]], names: Sequence[str]) -> list[torch.Tensor]:
    """Reads arrays of photos from several caches, float32, in the order of the places.

    Args:
        places: (cache, photo, view) of each photo.
        names: Names of the arrays.
    """
    together: dict[tuple[ViewCache, int], list[tuple[int, int]]] = {}  # read together: (row of the result, photo)
    for place, (cache, photo, view) in enumerate(places):
        together.setdefault((cache, view), []).append((place, photo))
    found: list[torch.Tensor] = []
    for name in names:
        result = None
        for (cache, view), pairs in together.items():
            rows, photos = zip(*pairs, strict=True)
            read = cache.read(name, photos, view)
            result = read.new_empty(len(places), *read.shape[1:]) if result is None else result
            result[list(rows)] = read
        found.append(result)
    return found


def _reserve(file: BinaryIO, size: int) -> None:
    """Reserves disk space for a file of so many bytes; its content stays."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    file.seek(0)  # macOS and Windows: write every byte
    while part := file.read(2**20):
        file.seek(-len(part), os.SEEK_CUR)
        file.write(part)
    os.fsync(file.fileno())
