"""A run's folder: who owns it, and what its run started with.

OUT/run.json marks a run. Without it, a folder that holds recipe.yaml, log.jsonl, checkpoints/ or the like belongs to
someone else and is refused. run.json records what the recipe doesn't: the data and the initial weights. Both are
recorded by content, so that they may be moved but not replaced.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vlcap.errors import VlcapError
from vlcap.files.writing import check_replaceable, replacing
from vlcap.model.timm_encoder import folder_of

from .progress import read_evaluations
from .recipe import Recipe

MARKER = "run.json"
# Of any run, besides what it writes as a whole.
FILES = ("recipe.yaml", "log.jsonl", "curves.png", "tensorboard", "checkpoints", "stage.json", "best.json")
FREE = ("workers", "save_every", "evaluate_every")  # settings that don't change the result
FOLDERS = ("encoder", "start_from", "decoder")  # settings that may name a folder, compared by its content
LENGTH = ("steps", "epochs")
FOLDER = "sha256:"


class TrainingError(VlcapError, RuntimeError):
    """A run that can't start or continue: why, and where its last state is."""


@dataclass(frozen=True)
class Data:
    """Photos that a run reads.

    Args:
        split: train or val.
        name: Name for messages; it may change as long as the photos don't.
        photos: Number of photos; None if unknown.
        sha256: Digest of their names, sizes, captions or labels.
    """

    split: str
    name: str
    photos: int | None
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} ({'a stream' if self.photos is None else f'{self.photos} photos'})"


def claim(out: Path, recipe: Recipe) -> FileLock:
    """Makes `out` this run's folder, or checks that it is, and takes its lock.

    Raises:
        TrainingError: It holds files that no run wrote, a run with other settings, or a run in progress.
        NotOursError: No run wrote a folder that this one would replace.
    """
    if out.exists() and not out.is_dir():
        raise TrainingError(f"{out} is a file, and a run needs a folder: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".vlcap.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TrainingError(f"{out} is being written by another run: wait for it, or choose another --out") from None
    try:
        own(out, _kind(recipe), (*FILES, *recipe.writes))
        for name in recipe.writes:
            check_replaceable(out / name)
        if any((out / "checkpoints").glob("step-*.pt")) or read_evaluations(out / "log.jsonl"):
            check_recipe(out, recipe)
        else:  # nothing is trained yet: after fixing a refused setting or --data, start anew
            _write(out, {"kind": _kind(recipe), "begun_from": _begun_from(recipe)})
            _write_recipe(out, recipe)
    except BaseException:
        lock.release()
        raise
    return lock


def own(out: Path, kind: str, names: Sequence[str]) -> None:
    """Marks a folder as a run's, or checks that it is, so that the files of these names belong to the run.

    Raises:
        TrainingError: No run owns the folder and it holds one of these files, or another kind of run owns it.
    """
    known = _read(out)
    if known is None:
        if there := [name for name in (MARKER, *names) if _occupied(out / name)]:
            raise TrainingError(
                f"{out} holds {there[0]}, and no run of this version wrote it: "
                "move it elsewhere, or choose another --out"
            )
        _write(out, {"kind": kind})  # before any other file, so that every file has an owner
    elif known["kind"] != kind:
        raise TrainingError(f"{out} holds a run of train {known['kind']}, not {kind}: choose another --out")


def know_data(out: Path, data: Sequence[Data]) -> None:
    """Records the data of a new run, or compares it with the recorded data.

    Raises:
        TrainingError: The run was begun with other photos, captions or labels.
    """
    known = _read(out) or {}
    if "data" not in known:
        _write(out, known | {"data": [asdict(each) for each in data]})
        return
    before = [Data(**each) for each in known["data"]]
    if len(before) != len(data):
        raise TrainingError(
            f"{out} was begun with {', '.join(map(str, before))}, now there is {', '.join(map(str, data))}: "
            "give the same --data, or choose another --out"
        )
    for old, new in zip(before, data, strict=True):
        if (old.split, old.photos, old.sha256) != (new.split, new.photos, new.sha256):
            changed = "which has changed since (names, sizes, captions or labels)"
            other = changed if str(old) == str(new) else f"now {new}"
            raise TrainingError(
                f"{out} was begun with other data: for {old.split} {old}, {other}. "
                "Give the same --data, or choose another --out"
            )


def knows_data(out: Path) -> bool:
    """Whether the folder records its data, so that what is derived from the data may be reused."""
    return "data" in (_read(out) or {})


def check_recipe(out: Path, recipe: Recipe) -> None:
    """Compares a recipe with that of the folder's run, and records the settings that may change.

    Raises:
        TrainingError: Another setting has changed, or the initial weights are no longer the same.
    """
    path = out / "recipe.yaml"
    if path.exists():  # by value: in an older run, settings of newer versions have their defaults
        old, new = type(recipe).load(str(path)).model_dump(), recipe.model_dump()
        free = {*FREE, *FOLDERS, *(LENGTH if old["schedule"] == new["schedule"] == "constant" else ())}
        if new.get("stream"):
            free.remove("workers")
        changed = [key for key in new if new[key] != old[key]]
        if refused := [f"{key}: {new[key]} (was {old[key]})" for key in changed if key not in free]:
            why = ""
            if any(key in LENGTH for key in changed):
                why = f"; schedule {new['schedule']} depends on the run's length, only a constant one can be prolonged"
            elif new.get("stream") and "workers" in changed:
                why = "; a stream's order depends on the number of workers"
            raise TrainingError(
                f"{out} holds a run with other settings (now {', '.join(refused)}){why}: choose another --out"
            )
        for key, began in (_read(out) or {}).get("begun_from", {}).items():
            if (now := _begun_from(recipe)[key]) != began:
                gone = began and began.startswith(FOLDER) and not (now and now.startswith(FOLDER))
                raise TrainingError(
                    f"{out} was begun with the {key} of a folder, and {now} is not a folder: give its current path"
                    if gone
                    else f"{out} was begun with another {key}, not {getattr(recipe, key)}: choose another --out"
                )
        if not changed:
            return
    _write_recipe(out, recipe)


def _write_recipe(out: Path, recipe: Recipe) -> None:
    with replacing(out / "recipe.yaml") as file:
        file.write(recipe.to_yaml())


def _kind(recipe: Recipe) -> str:
    return type(recipe).__name__.removesuffix("Recipe").lower()


def _begun_from(recipe: Recipe) -> dict[str, str | None]:
    """The settings that may name a folder: its content's digest, or the name itself if it is no folder."""
    found: dict[str, str | None] = {}
    for key in FOLDERS:
        value = getattr(recipe, key, None)
        if value is not None and (folder := folder_of(value)).is_dir():
            digest = hashlib.sha256()
            for name in ("config.json", "model.safetensors"):
                if (path := folder / name).is_file():
                    with open(path, "rb") as file:
                        digest.update(hashlib.file_digest(file, "sha256").digest())
            value = FOLDER + digest.hexdigest()
        if key in type(recipe).model_fields:
            found[key] = value
    return found


def _occupied(path: Path) -> bool:
    """Whether something could be lost here: not in an empty folder, nor behind a link to one or to nothing."""
    return path.exists() and not (path.is_dir() and not any(os.scandir(path)))


def _read(out: Path) -> dict[str, Any] | None:
    try:
        values = json.loads((out / MARKER).read_bytes())
        return values if isinstance(values, dict) and "kind" in values else None
    except (FileNotFoundError, ValueError):
        return None


def _write(out: Path, values: dict[str, Any]) -> None:
    with replacing(out / MARKER) as file:
        json.dump(values, file, indent=2)
