"""Which split a photo belongs to: as the names of files and folders say, or else a share chosen by content."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

WORDS = "training|train|validation|valid|val|dev|testing|test"
# A word between other signs than letters, and perhaps a year: train, val2017, coco_test-0003.
IN_NAME = re.compile(rf"(?<![A-Za-z])({WORDS})((?:19|20)\d\d(?!\d))?(?![A-Za-z])", re.IGNORECASE)
FOLDER = re.compile(rf"({WORDS})[-_]?((?:19|20)\d\d)?", re.IGNORECASE)
ABSOLUTE = re.compile(r"/|[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*://")  # how paths, also of Windows, and addresses start
SEED = 0  # of the share; another number would choose other photos
SHARES = {"val": 0.05, "test": 0.05}  # the rest is train
KEY_BYTES = 4096  # of a photo, from its start; two photos that agree in them and in their size go to the same split


def split_in_name(name: str) -> str | None:
    """The split that a file's name contains: "val" for cc3m-val-0003.tar. None if it contains none, or several."""
    found = {"".join(match.groups(default="")).lower() for match in IN_NAME.finditer(name)}
    return found.pop() if len(found) == 1 else None


def split_of_file(path: Path, folder: Path) -> str | None:
    """The split that a file of captions below `folder` is for, as its folder or its name says."""
    return split_of_folder(path.relative_to(folder).as_posix()) or split_in_name(path.stem)


def split_of_folder(path: str) -> str | None:
    """The split that a folder in a path is named after: "val2017" for images/val2017/1.jpg. None if there is none.

    Of an absolute path or an address, only the last folder counts: /home/dev/photos/1.jpg names no split.
    """
    path = path.replace("\\", "/")
    folders = PurePosixPath(path).parts[:-1]
    for part in folders[-1:] if ABSOLUTE.match(path) else folders:
        if match := FOLDER.fullmatch(part):
            return "".join(match.groups(default="")).lower()
    return None


def share(keys: Sequence[bytes]) -> list[str]:
    """Splits photos by their content: the same photos get the same splits in any layout and order.

    A photo stays in its split when others are added, except in sets so small that a split would be empty: there, the
    photo that is closest to the split goes into it.

    Args:
        keys: One per photo, which determines its split.

    Returns:
        "train", "val" or "test" for each photo.
    """
    numbers = [int.from_bytes(hashlib.sha256(f"{SEED} ".encode() + key).digest()[:8], "big") / 2**64 for key in keys]
    order = sorted(range(len(keys)), key=lambda i: numbers[i])
    splits, start, border = ["train"] * len(keys), 0, 0.0
    for name, part in SHARES.items():
        border += part
        stop = max(sum(number < border for number in numbers), start + 1)
        stop = min(stop, len(keys) - 1)  # one photo at least is left for training
        for i in order[start:stop]:
            splits[i] = name
        start = max(start, stop)
    return splits
