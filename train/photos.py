"""Photos of a labeled set, wherever they are: files, rows of a Hugging Face data set, or a part of either.

These are objects, not closures, because a data loading process may have to unpickle them.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from vlcap.data.caption_set import CaptionSet
from vlcap.data.files import file_size
from vlcap.data.images import ImageError, load_image
from vlcap.data.videos import load_frames
from vlcap.files.writing import digest_file

FRAME_SIDE = 256  # pixels; short side of a video's frames, which are augmented afterwards

Transform = Callable[[Image.Image], torch.Tensor]  # a photo -> uint8 pixels (3, S, S)


class Photos(Protocol):
    """Photos that can be trained on and cached. `vlcap.data.captions.CaptionSet` is one kind."""

    @property
    def name(self) -> str: ...

    @property
    def split(self) -> str: ...

    def __len__(self) -> int: ...

    def image(self, i: int) -> Image.Image: ...

    def fingerprint(self) -> str:
        """Digest of the photos' content."""

    def identity(self) -> str:
        """Digest of the photos' names and sizes, faster to compute."""


@dataclass(frozen=True, eq=False)
class PhotoFiles:
    """Photos that are files of a split."""

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
            digest.update(f"{name} {digest_file(path)}\n".encode())
        return digest.hexdigest()

    def identity(self) -> str:
        listing = [(name, file_size(path)) for name, path in zip(self.names, self.paths, strict=True)]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class VideoFiles(PhotoFiles):
    """Videos that are files of a split. As a photo, each is its middle frame."""

    def image(self, i: int) -> Image.Image:
        return self.clip(i, frames=1)[0]

    def clip(self, i: int, frames: int) -> list[Image.Image]:
        """So many frames of a video, spread evenly over its time."""
        return load_frames(self.paths[i], frames, side=FRAME_SIDE)


@dataclass(frozen=True, eq=False)
class PhotoRows:
    """Photos in a column of a Hugging Face data set.

    Args:
        name: Name of the data set.
        split: train or val.
        rows: The data set, images not decoded.
        column: Name of the column.
        source: File of the data set, for messages.
        trusted: Whether a row may name a local file.
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
        """Name and size in bytes of each row's photo."""
        import pyarrow.compute as compute

        images = self.rows.with_format("arrow")[self.column][:]
        names = (os.path.basename(path or "") for path in compute.struct_field(images, "path").to_pylist())
        sizes = (size or 0 for size in compute.binary_length(compute.struct_field(images, "bytes")).to_pylist())
        return zip(names, sizes, strict=True)


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


def origin(photos: Photos, i: int) -> tuple[Photos, int]:
    """Where a row of photos, or of a part of them, lies: the whole photos, and the row in them."""
    return origin(photos.photos, photos.rows[i]) if isinstance(photos, SomePhotos) else (photos, i)


def augmentation_of(recipe: Any) -> dict[str, Any]:
    """Arguments of `PixelConfig.train_transform` that a recipe of photos sets."""
    return {name: getattr(recipe, name) for name in ("scale", "hflip", "auto_augment", "color_jitter")}


def take(captions: CaptionSet, row: int, transform: Transform, frames: int | None) -> torch.Tensor:
    """A captioned photo, transformed: uint8 (3, S, S); for an encoder of clips (T, 3, S, S), all frames alike."""
    if frames is None:
        return transform(captions.image(row))
    return transform_alike(captions.clip(row, frames), transform)


def transform_alike(images: Sequence[Image.Image], transform: Transform) -> torch.Tensor:
    """The images, each transformed with the same random numbers: (T, 3, S, S)."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    found = []
    for image in images:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        found.append(transform(image))
    return torch.stack(found)
