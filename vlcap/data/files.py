"""Files of a data set: how its splits may be called, whether all of its files are there, and opening them.

Shared by all readers, of captions and of labels.
"""

import glob
import hashlib
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPLIT_NAMES = (("train", "training"), ("val", "valid", "validation", "dev"))
SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")


def split_names(split: str) -> tuple[str, ...]:
    """What a split may be called, the name asked for first."""
    names = next((names for names in SPLIT_NAMES if split in names), ())
    return (split, *(name for name in names if name != split))


def load_files(paths: Sequence[str | Path], kind: str, split: str = "train", streaming: bool = False) -> Any:
    """A split's files as a data set of Hugging Face's, of which their library keeps a copy on the disk.

    Args:
        paths: All of one kind.
        kind: The library's builder: parquet or webdataset.
        split: What the library will call it.
        streaming: Nothing is kept; read as asked.

    Raises:
        Exception: Whatever datasets raises where they can't be read.
    """
    from datasets import load_dataset

    _warn_of_missing(paths)
    patterns = {split: [glob.escape(str(path)) for path in paths]}  # datasets takes every path for a pattern
    # datasets knows its copies by the files' times, which rsync and others carry over to what they write: the name of
    # the copy is the content.
    name = None if streaming else _digest(paths)
    return load_dataset(kind, name=name, data_files=patterns, split=split, streaming=streaming)


def file_size(path: str | Path) -> int:
    """In bytes; -1 for what can't be looked at, which whoever opens it will say."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _digest(paths: Sequence[str | Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _warn_of_missing(paths: Sequence[str | Path]) -> None:
    """Files called NAME-00001-of-00003 say how many there are."""
    found: dict[tuple[str, str, str], set[int]] = {}  # name, of how many, suffix -> numbers
    for path in map(Path, paths):
        if match := SHARD.fullmatch(path.name):
            name, number, total, suffix = match.groups()
            found.setdefault((name, total, suffix), set()).add(int(number))
    folder = Path(paths[0]).parent
    for (name, total, suffix), numbers in found.items():
        if missing := [number for number in range(int(total)) if number not in numbers]:
            first = f"{name}-{missing[0]:0{len(total)}d}-of-{total}{suffix}"
            warnings.warn(
                f"{folder}: {len(missing)} of {int(total)} files are missing, the first is {first}: "
                "the split is read without them",
                stacklevel=2,
            )
    if len(found) > 1:
        totals = ", ".join(f"{name}-...-of-{total}" for name, total, _ in found)
        warnings.warn(f"{folder}: files of several sets ({totals}) are read as one split", stacklevel=2)
