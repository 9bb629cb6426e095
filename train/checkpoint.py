"""Checkpoints of a run: written whole or not at all, the newest two kept, a damaged one passed over."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch

KEEP = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Writes `folder/step-XXXXXXXX.pt` through a temporary file, then drops all but the newest two."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        torch.save({"step": step, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    for old in _checkpoints(folder)[KEEP:]:
        old.unlink()


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that reads, on the CPU, with its step as `step`; None if there is none.

    Only tensors and plain values are unpickled.
    """
    for path in _checkpoints(folder):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged archive raises, the one before it may be whole
            warnings.warn(f"checkpoint {path} is damaged ({type(error).__name__}): trying the one before", stacklevel=2)
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)
