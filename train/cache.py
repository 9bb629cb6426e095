"""The token cache: a frozen encoder's tokens, computed once, read by memory map ever after.

LiT's appendix G: with the image tower locked, pre-computed embeddings pay off after one epoch. Tokens lie in a folder
named by everything that they depend on - the encoder's weights, its preprocessing, the augmentation, the data's own
content - so that a stale cache can't be mistaken for a fresh one.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import track

from vlcap.captions import CaptionSet
from vlcap.encoder import Encoder, digest_weights
from vlcap.writing import replacing

from .sampling import seed_all

FORMAT = 1  # part of the key: raised when what the files hold changes
CHUNK = 64  # photos encoded, and at most lost, at a time


class CacheError(RuntimeError):
    """Tokens that can't be cached: where and why."""


class TokenCache:
    """Tokens of one caption set, for some budgets and some views of each photo.

    View 0 is the photo as evaluation sees it; the others are augmented, each by a seed of its own.

    Args:
        root: Folder of all caches.
        encoder: The frozen encoder.
        captions: The photos.
        budgets: Sides of the compressed grid.
        views: How many of each photo.
        augmentation: `PixelConfig.train_transform`'s arguments for the views after the first.
        seed: Of the augmentation.
    """

    def __init__(
            self,
            root: Path,
            encoder: Encoder,
            captions: CaptionSet,
            budgets: Sequence[int],
            views: int = 1,
            augmentation: dict[str, Any] | None = None,
            seed: int = 0,
    ):
        self.encoder, self.captions, self.budgets, self.views = encoder, captions, sorted(budgets), views
        self.augmentation, self.seed = augmentation or {}, seed
        self.folder = root / self.key()
        self._maps: dict[tuple[int, int], np.memmap] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For a process that loads photos: it needs the number of views, not the encoder, nor tokens."""
        return {**self.__dict__, "encoder": None, "_maps": {}}

    def key(self) -> str:
        """Digest of everything that the tokens depend on."""
        parts = {
            "format": FORMAT,
            "weights": digest_weights(self.encoder),
            "architecture": self.encoder.config.architecture,
            "pixels": self.encoder.pixels.to_dict(),
            "data": self.captions.fingerprint(),
            "budgets": self.budgets,
            "augmentation": self.augmentation if self.views > 1 else {},
            "seed": self.seed if self.views > 1 else 0,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]

    def size(self) -> int:
        """Bytes on disk when complete."""
        tokens = sum(map(self.encoder.token_count, self.budgets))
        return self.views * len(self.captions) * tokens * self.encoder.config.hidden_size * 2

    def fill(self) -> "TokenCache":
        """Computes what is missing; goes on where it was interrupted, and waits for another run that fills it.

        Raises:
            CacheError: The disk is too small.
            ImageError: A photo can't be read.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            self._fill()
        return self

    def _fill(self) -> None:
        progress = self.folder / "progress.json"
        done = json.loads(progress.read_text()) if progress.exists() else 0  # photos, over all views
        total = self.views * len(self.captions)
        if done < total:
            self._check_disk()
            what = f"caching tokens of {self.captions.name} {self.captions.split}, {self.size() / 1e6:.0f} MB"
            todo = f"{total - done} of {total} photos to encode, in {self.folder}"
            console = Console(file=sys.stderr)
            console.print(f"{what}, {todo}", highlight=False, soft_wrap=True)
            for start in track(range(done, total, CHUNK), description=what, console=console, transient=True):
                self._encode(range(start, min(start + CHUNK, total)))
                with replacing(progress) as file:
                    json.dump(min(start + CHUNK, total), file)

    def read(self, photos: Sequence[int], view: int, budget: int) -> torch.Tensor:
        """Tokens (B, M, D), float32, of some photos."""
        return torch.from_numpy(self._map(budget, view)[list(photos)]).float()

    def _encode(self, rows: range) -> None:
        pixels = self.encoder.pixels
        plain, augment = pixels.eval_transform(), pixels.train_transform(**self.augmentation)
        places = [divmod(row, len(self.captions)) for row in rows]  # (view, photo)
        photos = []
        for view, photo in places:
            seed_all(self.seed, view, photo)
            photos.append((augment if view else plain)(self.captions.image(photo)))
        batch = pixels.normalize(torch.stack(photos).to(self.encoder.device))
        with torch.inference_mode():
            for budget in self.budgets:
                tokens = self.encoder(batch, budget=budget).last_hidden_state.half().cpu().numpy()
                for (view, photo), row in zip(places, tokens, strict=True):
                    self._map(budget, view, write=True)[photo] = row
                for view in {view for view, _ in places}:
                    self._map(budget, view, write=True).flush()

    def _map(self, budget: int, view: int, write: bool = False) -> np.memmap:
        if (budget, view) not in self._maps:
            path = self.folder / f"budget{budget}-view{view}.npy"
            shape = (len(self.captions), self.encoder.token_count(budget), self.encoder.config.hidden_size)
            if write and not path.exists():
                self._allocate(path, shape)
            self._maps[budget, view] = np.load(path, mmap_mode="r+" if write else "r")
        return self._maps[budget, view]

    def _allocate(self, path: Path, shape: tuple[int, ...]) -> None:
        """Makes an array's file with its place on the disk reserved: a full disk would kill whoever writes to a map."""
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
        """Before the first photo is encoded: is there room for what isn't reserved yet?"""
        there = sum(path.stat().st_size for path in self.folder.glob("*.npy"))
        if self.size() - there > (free := shutil.disk_usage(self.folder).free):
            raise self._too_small(free)

    def _too_small(self, free: int) -> CacheError:
        return CacheError(
            f"{self.folder}: the tokens need {self.size() / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free: "
            "fewer cache_views or budgets, or another disk")


def _reserve(file: BinaryIO, size: int) -> None:
    """Gives a file of so many bytes its place on the disk; what it holds stays."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    file.seek(0)  # macOS and Windows: by writing
    while part := file.read(2**20):
        file.seek(-len(part), os.SEEK_CUR)
        file.write(part)
    os.fsync(file.fileno())
