"""The files of a data set: names of its splits, missing files, and opening them with Hugging Face datasets.

The readers of captions and of labels share it.
"""

import contextlib
import glob
import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import VlcapError

SPLIT_NAMES = (("train", "training"), ("val", "valid", "validation", "dev"))
SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")


def split_names(split: str) -> tuple[str, ...]:
    """Names that a split may have. The name asked for comes first."""
    names = next((names for names in SPLIT_NAMES if split in names), ())
    return (split, *(name for name in names if name != split))


@contextlib.contextmanager
def readable(where: str | Path, kind: str, error: type[VlcapError]) -> Iterator[None]:
    """Turns whatever a library raises about damaged files into one clear error.

    Args:
        where: The files, for the message.
        kind: Their format, for the message.
        error: Class of the error. Errors of this project pass as they are.
    """
    try:
        yield
    except VlcapError:
        raise
    except Exception as fault:  # datasets hides what pyarrow found behind an error of its own
        reason = " ".join(str(fault.__cause__ or fault).split())
        raise error(f"{where}: cannot be read as {kind} ({reason:.300})") from fault


def load_files(paths: Sequence[str | Path], kind: str, split: str = "train", streaming: bool = False) -> Any:
    """The files of a split as a Hugging Face data set. The library keeps a copy of them on the disk.

    Args:
        paths: The files, all of one kind.
        kind: Name of the library's builder: parquet or webdataset.
        split: Name that the library will give the split.
        streaming: Whether to read the files while they are used, without a copy.

    Raises:
        Exception: Whatever datasets raises for damaged files; see `readable`.
    """
    from datasets import load_dataset

    _warn_of_missing(paths)
    patterns = {split: [glob.escape(str(path)) for path in paths]}  # datasets takes every path for a pattern
    # datasets recognizes its copies by the times of the files. rsync and other programs carry these times over to files
    # of other content, so the copy is named by the content.
    name = None if streaming else _digest(paths)
    return load_dataset(kind, name=name, data_files=patterns, split=split, streaming=streaming)


def file_size(path: str | Path) -> int:
    """Size of a file in bytes; -1 if it cannot be read, which will be reported when it is opened."""
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
    """Warns if files are missing. A name such as train-00001-of-00003 says how many there are."""
    found: dict[tuple[str, str, str], set[int]] = {}  # name, number of files, suffix -> numbers
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
