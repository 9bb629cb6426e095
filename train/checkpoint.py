"""Checkpoints of a run: written whole or not at all, the newest two kept, a damaged one passed over.

A checkpoint's name holds its step and the first digits of its SHA-256, as timm's and torch hub's weight files do, so
that the file and what vouches for it appear in one rename.
"""

import contextlib
import hashlib
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

KEEP = 2
DIGITS = 16


class CheckpointError(RuntimeError):
    """A checkpoint that can't be written: where, why, and what is left."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes `folder/step-XXXXXXXX-DIGEST.pt` through a temporary file, then drops all but the newest two."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.tmp"):  # of a process killed while it wrote
        stale.unlink()
    temporary = folder / f"step-{step:08d}.tmp"
    try:  # every step of it may find the disk full
        with open(temporary, "wb") as file:
            torch.save({"step": step, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"step-{step:08d}-{_digest(temporary)}.pt"
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch's own writer, of a write that failed
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(
            f"{folder}: the checkpoint of step {step} can't be written ({reason}); those before it are still there. "
            "Make room: the same command goes on from them") from error
    finally:
        temporary.unlink(missing_ok=True)
    for old in _checkpoints(folder)[KEEP:]:
        old.unlink()
    return path


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, on the CPU, with its step as `step`; None if there is none.

    Only tensors and plain values are unpickled.
    """
    for path in _checkpoints(folder):
        if _digest(path) == path.stem.split("-")[-1]:
            return torch.load(path, map_location="cpu", weights_only=True)
        warnings.warn(f"checkpoint {path} is damaged, its SHA-256 is another: using the one before", stacklevel=2)
    return None


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Gives an empty folder to write into, which takes `folder`'s place when all is written, and not before."""
    new, old = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*-*.pt"), reverse=True)
