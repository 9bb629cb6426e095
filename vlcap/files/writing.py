"""Writes files and folders whole or not at all. The one place that decides what may be replaced or deleted.

A folder that is written as a whole (a run's encoder/, captioner/, decoder/, tokenizer/) carries a marker, .vlcap.json:
the kind of the folder, and the SHA-256 of every file that was written there. Such a file is ours while its content is
unchanged. Every other file in the folder belongs to somebody and stays as it is. A folder without the marker is not
touched.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ..errors import VlcapError
from .json_file import load_json
from .locking import CAN_LOCK, try_lock

MARKER = ".vlcap.json"
NEW = ".vlcap.new"  # inside a folder: the new files, until they take the places of the old ones


class NotOursError(VlcapError, ValueError):
    """A file or folder that this program did not write would be replaced. The message names it and says what to do."""


@contextlib.contextmanager
def replacing(path: Path, binary: bool = False) -> Iterator[IO[Any]]:
    """Gives a file to write. It takes the place of `path` when all of it is written, and not before.

    If `path` is a link, the file it leads to is replaced.

    Args:
        path: The file.
        binary: Whether bytes will be written, and not text.

    Raises:
        OSError: The file cannot be written. The old file is still at `path`.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    # "x": the file is ours from its first byte, so it may be deleted.
    file: IO[Any] = open(temporary, "xb") if binary else open(temporary, "x", encoding="utf-8")  # noqa: SIM115
    try:
        with file:
            try_lock(file)  # while it has the lock, `is_being_written` is true
            yield file
            file.flush()
            os.fsync(file.fileno())
            if CAN_LOCK:  # elsewhere, an open file can't be moved
                os.replace(temporary, path)
        if not CAN_LOCK:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def is_being_written(temporary: Path) -> bool:
    """Whether a process is writing this unfinished file of `replacing`."""
    try:
        with open(temporary, "rb") as file:
            return not try_lock(file)
    except OSError:
        return False


@contextlib.contextmanager
def written_whole(folder: Path, what: str | None = None) -> Iterator[Path]:
    """Gives an empty folder to write files into. They take their places in `folder` when all of them are written.

    Files that a person has put into `folder` stay. Files that an earlier call wrote and this one does not are deleted.
    If `folder` is a link, the files go into the folder it leads to.

    Args:
        folder: The folder to write; made if it does not exist.
        what: Kind of the folder, for its marker; the name of the folder if left out.

    Raises:
        NotOursError: As for `check_replaceable`.
        OSError: The folder cannot be written. The old files are still there.
    """
    what = what or folder.name
    check_replaceable(folder, what)
    folder = Path(os.path.realpath(folder))
    with _marked(_unfinished(folder), what) as new:
        yield new
        digests = {path.name: [digest_file(path)] for path in sorted(new.iterdir()) if path.name != MARKER}
        if folder.is_dir():
            _put(new, folder, what, digests)
        else:
            _mark(new, what, digests)
            new.rename(folder)


@contextlib.contextmanager
def new_tree(folder: Path, what: str) -> Iterator[Path]:
    """Gives an empty folder to write files and folders into. It becomes `folder` when all of them are written.

    Args:
        folder: A folder that does not exist, or is empty.
        what: Kind of the folder, for its marker.

    Raises:
        NotOursError: As for `check_new`.
        OSError: The folder cannot be written. Nothing is at `folder`.
    """
    check_new(folder)
    folder = Path(os.path.realpath(folder))
    with _marked(_unfinished_tree(folder), what) as new:
        yield new
        if folder.is_dir():
            folder.rmdir()  # fails if somebody has put something there meanwhile
        new.rename(folder)


def check_new(folder: Path) -> None:
    """Checks that `new_tree` may write a folder.

    Raises:
        NotOursError: Something is in its place, other than an empty folder.
        OSError: Its parent cannot be written.
    """
    real = Path(os.path.realpath(folder))
    if os.path.lexists(real) and not real.is_dir():
        raise NotOursError(f"{folder} is in the way, a file where a folder will be written: choose another folder")
    if real.is_dir() and (found := sorted(os.listdir(real))):
        raise NotOursError(f"{folder} is not empty (it holds {found[0]!r:.100}): choose another folder")
    new = _unfinished_tree(real)
    if os.path.lexists(new) and not _is_ours(new):
        raise NotOursError(f"{new} is in the way and was not written by vlcap: move it elsewhere")
    above = next(path for path in real.parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise PermissionError(errno.EACCES, "no permission to write here", str(above))


def check_replaceable(folder: Path, what: str | None = None) -> None:
    """Checks that `written_whole` may write a folder.

    Raises:
        NotOursError: It is a file, a folder of another kind, a folder that is not ours, or a file of ours in it was
            changed.
        OSError: It cannot be read, or its parent cannot be written.
    """
    what = what or folder.name
    real = Path(os.path.realpath(folder))
    new = _unfinished(real)
    if os.path.lexists(new) and not _is_ours(new):
        raise NotOursError(f"{new} is in the way and was not written by vlcap: move it elsewhere")
    if new.parent.is_dir() and not os.access(new.parent, os.W_OK):
        raise PermissionError(errno.EACCES, "no permission to write here", str(new.parent))
    if not os.path.lexists(real):
        return
    if not real.is_dir():
        raise NotOursError(f"{folder} is in the way, a file where a folder will be written: move it elsewhere")
    marker = _marker(real)
    if marker is None or marker["what"] != what:
        if found := sorted(path.name for path in real.iterdir() if path.name != NEW):
            raise NotOursError(
                f"{folder} was not written by vlcap as its {what} folder (it holds {found[0]}): move it elsewhere"
            )
        return
    for name, digests in marker["files"].items():
        path = real / name
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file() or digest_file(path) not in digests):
            raise NotOursError(f"{path} was changed after vlcap wrote it and would be replaced: move it elsewhere")


def fresh_folder(parent: Path, name: str) -> Path:
    """Makes the folder `parent`/`name`-N, where N is one more than the largest number there, or 1."""
    parent.mkdir(parents=True, exist_ok=True)
    number = max((number for number, _ in numbered(parent, name)), default=0)
    while True:
        number += 1
        with contextlib.suppress(FileExistsError):
            (path := parent / f"{name}-{number}").mkdir()
            return path


def numbered(parent: Path, name: str) -> list[tuple[int, Path]]:
    """Numbers and paths of the folders that have a name as `fresh_folder` gives it, sorted by number."""
    found = [(re.fullmatch(rf"{re.escape(name)}-(\d+)", path.name), path) for path in parent.glob(f"{name}-*")]
    return sorted((int(match[1]), path) for match, path in found if match)


def delete(paths: Iterable[Path], pattern: re.Pattern) -> None:
    """Deletes those of the files whose names match `pattern`, a form that only this program gives to its files."""
    for path in list(paths):
        if pattern.fullmatch(path.name) and (path.is_file() or path.is_symlink()):
            path.unlink(missing_ok=True)


def _put(new: Path, folder: Path, what: str, digests: Mapping[str, list[str]]) -> None:
    """Moves finished files into their folder, one by one. If killed at any moment, the marker knows all of them."""
    marker = _marker(folder)
    before: dict[str, list[str]] = marker["files"] if marker else {}
    if foreign := sorted(name for name in digests if name not in before and os.path.lexists(folder / name)):
        raise NotOursError(f"{folder / foreign[0]} is in the way and was not written by vlcap: move it elsewhere")
    both = {name: [*before.get(name, []), *digests.get(name, [])] for name in {**before, **digests}}
    _mark(folder, what, both, new)
    for name in digests:
        os.replace(new / name, folder / name)
    for name in before.keys() - digests.keys():
        (folder / name).unlink(missing_ok=True)
    _mark(folder, what, digests, new)


def _unfinished(folder: Path) -> Path:
    """Where `written_whole` keeps unfinished files: on the same disk."""
    return folder / NEW if folder.is_dir() else folder.with_name(f".{folder.name}{NEW}")


def _unfinished_tree(folder: Path) -> Path:
    """Where `new_tree` keeps an unfinished folder: beside it."""
    return folder.with_name(f".{folder.name}{NEW}")


@contextlib.contextmanager
def _marked(new: Path, what: str) -> Iterator[Path]:
    """Makes an unfinished folder, empty but for its marker. Whatever is left of it at the end is deleted."""
    _discard(new)
    new.mkdir(parents=True)
    try:
        _mark(new, what, {})
        yield new
    finally:
        _discard(new)


def _discard(new: Path) -> None:
    """Deletes an unfinished folder of this process or of one that was killed."""
    if _is_ours(new):
        shutil.rmtree(new)


def _is_ours(new: Path) -> bool:
    """Whether an unfinished folder carries the marker, or holds only what was left of one after a kill."""
    if new.is_symlink() or not new.is_dir():
        return False
    return _marker(new) is not None or all(MARKER in path.name for path in new.iterdir())


def _mark(folder: Path, what: str, files: Mapping[str, list[str]], new: Path | None = None) -> None:
    """Writes the marker of a folder by way of `new`, where a kill leaves no unknown file."""
    temporary = (new or folder) / f"{MARKER}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"what": what, "files": dict(files)}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / MARKER)


def _marker(folder: Path) -> dict[str, Any] | None:
    """Content of a folder's marker; None if there is no marker, or one that is not ours."""
    try:
        values = load_json(folder / MARKER)
        named = all(Path(name).name == name for name in values["files"])  # nothing outside the folder
        return values if named and isinstance(values["files"], dict) and isinstance(values["what"], str) else None
    except (ValueError, TypeError, KeyError):
        return None


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
