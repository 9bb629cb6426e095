"""Checkpoints of a run: written whole or not at all, the newest two kept, a damaged one passed over.

A checkpoint's name holds its step and the first digits of its SHA-256, as timm's and torch hub's weight files do, so
that the file and what vouches for it appear in one rename.
"""

import hashlib
import os
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from vlcap.errors import VlcapError
from vlcap.files.writing import delete

KEEP = 2
DIGITS = 16
CHECKPOINT = re.compile(rf"step-(\d{{8,}})-([0-9a-f]{{{DIGITS}}})\.pt")
UNFINISHED = re.compile(r"step-\d{8,}\.tmp")


class CheckpointError(VlcapError, RuntimeError):
    """A checkpoint that can't be written: where, why, and what is left."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes `folder/step-XXXXXXXX-DIGEST.pt` through a temporary file, then drops all but the newest two."""
    folder.mkdir(parents=True, exist_ok=True)
    delete(folder.iterdir(), UNFINISHED)  # of a process killed while it wrote
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
            "Make room: the same command goes on from them"
        ) from error
    finally:
        delete([temporary], UNFINISHED)
    delete(_checkpoints(folder)[KEEP:], CHECKPOINT)
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


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]


def _checkpoints(folder: Path) -> list[Path]:
    """Those of the run, the newest first; a file that a person has put there has another name."""
    found = [path for path in folder.glob("step-*.pt") if CHECKPOINT.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True)
