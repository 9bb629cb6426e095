"""Places for results: checked before the work begins, so that no file of a person is overwritten.

A folder of results keeps a list, .vlcap-results.json: the files that vlcap wrote there, each with its SHA-256. While
the content of such a file is unchanged it is ours, and a later run may replace it. Any other file of that name belongs
to somebody, and the run stops before the work begins.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import VlcapError
from .json_file import load_json
from .writing import digest_file, replacing

LIST = ".vlcap-results.json"
UNFINISHED = ""  # in place of a digest: a run that writes the file has begun
PICTURES = {".png": "Software", ".svg": "Creator", ".pdf": "Creator"}  # each with the field that names its program


class OutputError(VlcapError, ValueError):
    """Results cannot be written to a place. The message says where, why, and what to do."""


@contextlib.contextmanager
def results(folder: Path | None, names: Sequence[str]) -> Iterator[None]:
    """Lets the body of the `with` statement write files of these names into a folder.

    Args:
        folder: The folder; None if nothing is to be written.
        names: Names of the files.

    Raises:
        OutputError: The folder cannot be made or written to, or holds a file of such a name that is not ours.
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
            or (name not in written or written[name] not in (UNFINISHED, digest_file(path)))
        ):
            raise OutputError(f"{path}: was not written by vlcap, or changed since: move it or choose another folder")
    _write_list(folder, written | dict.fromkeys(names, UNFINISHED))
    try:
        yield
    finally:
        found = {name: digest_file(folder / name) for name in names if (folder / name).is_file()}
        before = {name: digest for name, digest in written.items() if name in names}
        others = {name: digest for name, digest in _read_list(folder).items() if name not in names}
        _write_list(folder, {**others, **before, **found})


def check_folder(folder: Path) -> None:
    """Makes a folder if it does not exist.

    Raises:
        OutputError: It cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise OutputError(f"{folder}: a file is in the place of this folder: choose another folder") from None
    except OSError as error:
        raise OutputError(f"{folder}: this folder cannot be made ({error.strerror}): choose another") from None
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(f"{folder}: nothing can be written here ({error.strerror}): choose another") from None


def check_picture(path: Path) -> dict[str, str]:
    """Checks the place where a picture will be drawn.

    Returns:
        `metadata` for matplotlib, by which a later run knows that the picture is ours.

    Raises:
        OutputError: The suffix is not a supported one, the folder cannot be written to, or a file of that name is not
            ours.
    """
    if path.suffix.lower() not in PICTURES:
        raise OutputError(f"{path}: the name of the picture must end in {', '.join(PICTURES)}")
    check_folder(path.parent)
    if os.path.lexists(path) and not (path.is_file() and b"vlcap" in path.read_bytes()):
        raise OutputError(f"{path}: was not drawn by vlcap: move it or choose another name")
    return {PICTURES[path.suffix.lower()]: "vlcap"}


def _read_list(folder: Path) -> dict[str, str]:
    """Names and digests of the files that vlcap wrote into the folder.

    Raises:
        OutputError: The file in the list's place is not a list of ours.
    """
    path = folder / LIST
    if not os.path.lexists(path):
        return {}
    try:
        return dict(load_json(path)["written by vlcap"])
    except (ValueError, TypeError, KeyError):
        raise OutputError(f"{path}: is not a list written by vlcap: move it or choose another folder") from None


def _write_list(folder: Path, written: dict[str, str]) -> None:
    with replacing(folder / LIST) as file:
        json.dump({"written by vlcap": written}, file, indent=2)
