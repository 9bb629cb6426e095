"""Checkpoints of a run: written atomically, the newest two kept, damaged ones skipped.

A checkpoint's name holds its step and the first digits of its SHA-256, as in timm's and torch hub's weight files, so
that the file and its digest appear in one rename.
"""

import os
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from vlcap.errors import VlcapError
from vlcap.files.writing import delete, digest_file

KEEP = 2
DIGITS = 16
CHECKPOINT = re.compile(rf"step-(\d{{8,}})-([0-9a-f]{{{DIGITS}}})\.pt")
UNFINISHED = re.compile(r"step-\d{8,}\.tmp")


class CheckpointError(VlcapError, RuntimeError):
    """A checkpoint that can't be written or continued from: where, why, and what remains."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes `folder/step-XXXXXXXX-DIGEST.pt` through a temporary file, then deletes all but the newest two."""
    folder.mkdir(parents=True, exist_ok=True)
    delete(folder.iterdir(), UNFINISHED)  # left by a process that was killed while writing
    temporary = folder / f"step-{step:08d}.tmp"
    try:  # each of these may fail on a full disk
        with open(temporary, "wb") as file:
            torch.save({"step": step, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"step-{step:08d}-{digest_file(temporary)[:DIGITS]}.pt"
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: raised by torch's writer for a failed write
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(
            f"{folder}: the checkpoint of step {step} can't be written ({reason}); earlier ones are still there. "
            "Make room: the same command resumes from them"
        ) from error
    finally:
        delete([temporary], UNFINISHED)
    delete(_checkpoints(folder)[KEEP:], CHECKPOINT)
    return path


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Loads the newest undamaged checkpoint onto the CPU; None if there are no checkpoints.

    Unpickles tensors and plain values only.

    Raises:
        CheckpointError: All of them are damaged.
    """
    damaged: list[Path] = []
    for path in _checkpoints(folder):
        if digest_file(path)[:DIGITS] == path.stem.split("-")[-1]:
            if damaged:
                warnings.warn(
                    f"checkpoint {damaged[0]} is damaged (wrong SHA-256): using {path.name}, an older one", stacklevel=2
                )
            return torch.load(path, map_location="cpu", weights_only=True)
        damaged.append(path)
    if damaged:
        raise CheckpointError(f"checkpoint {damaged[0]} is damaged (wrong SHA-256), and there is no other one")
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """The run's checkpoints, newest first; files that a person put there have other names."""
    found = [path for path in folder.glob("step-*.pt") if CHECKPOINT.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True)
