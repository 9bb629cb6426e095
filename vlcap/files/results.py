"""Places for results: looked at before the work begins, and never at a person's cost.

A folder of results keeps a list, .vlcap-results.json: the files that were written there, each with its SHA-256. Such a
file is ours, to be replaced by a later run, while its content is unchanged. Any other file of that name is somebody's,
and refused before the work begins.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import VlcapError
from .writing import replacing

LIST = ".vlcap-results.json"
UNFINISHED = ""  # in place of a digest: a run that writes the file has begun
PICTURES = {".png": "Software", ".svg": "Creator", ".pdf": "Creator"}  # each with where it says who made it


class OutputError(VlcapError, ValueError):
    """Results can't be written to a place: where, why, and what to do."""


@contextlib.contextmanager
def results(folder: Path | None, names: Sequence[str]) -> Iterator[None]:
    """The body of the `with` statement may write files of these names into a folder; None for no folder.

    Raises:
        OutputError: The folder can't be made or written to, or holds a file of such a name that isn't ours.
    """
    if folder is None:
        yield
        return
    check_folder(folder)
    written = _read_list(folder)
    for name in names:
        path = folder / name
        if not os.path.lexists(path):
            continue
        if (
            path.is_symlink()
            or not path.is_file()
            or (name not in written or written[name] not in (UNFINISHED, _digest(path)))
        ):
            raise OutputError(f"{path}: was not written by vlcap, or changed since: move it or choose another folder")
    _write_list(folder, written | dict.fromkeys(names, UNFINISHED))
    try:
        yield
    finally:
        found = {name: _digest(folder / name) for name in names if (folder / name).is_file()}
        _write_list(folder, {**written, **found})


def check_folder(folder: Path) -> None:
    """Makes a folder if it isn't there.

    Raises:
        OutputError: It can't be made, or not written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise OutputError(f"{folder}: a file lies where this folder should be: choose another") from None
    except OSError as error:
        raise OutputError(f"{folder}: this folder cannot be made ({error.strerror}): choose another") from None
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(f"{folder}: nothing can be written here ({error.strerror}): choose another") from None


def check_picture(path: Path) -> dict[str, str]:
    """Looks at where a picture is to be drawn.

    Returns:
        matplotlib's `metadata` for it, by which a later run knows that it is ours.

    Raises:
        OutputError: Its suffix is of no kind that is drawn, its folder can't be written to, or there is a file of that
            name that isn't ours.
    """
    if path.suffix.lower() not in PICTURES:
        raise OutputError(f"{path}: the picture's name has to end in {', '.join(PICTURES)}")
    check_folder(path.parent)
    if os.path.lexists(path) and not (path.is_file() and b"vlcap" in path.read_bytes()):
        raise OutputError(f"{path}: was not drawn by vlcap: move it or choose another name")
    return {PICTURES[path.suffix.lower()]: "vlcap"}


def _read_list(folder: Path) -> dict[str, str]:
    """What was written into the folder: names and digests.

    Raises:
        OutputError: There is a file in the list's place that isn't one.
    """
    path = folder / LIST
    if not os.path.lexists(path):
        return {}
    try:
        return dict(json.loads(path.read_bytes())["written by vlcap"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise OutputError(f"{path}: is no list of vlcap's: move it or choose another folder") from None


def _write_list(folder: Path, written: dict[str, str]) -> None:
    with replacing(folder / LIST) as file:
        json.dump({"written by vlcap": written}, file, indent=2)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
