"""The graphs of captioners: the bundled ones, and a cache of the user's for those of any other captioner.

They are exported once, from checked weights. Graphs in a captioner folder are never run: a graph can make ONNX Runtime
read other files, and nobody has checked it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..engines.choose import torch_engine
from ..engines.onnx import SETTINGS, VERSION, OnnxEngine
from ..errors import CaptionerError
from ..files.writing import check_replaceable, digest_file, written_whole

CACHE = "VLCAP_CACHE"  # environment variable that names the folder of the cache
# What a captioner's graphs depend on; README.md names the data sets that it was trained on.
SOURCES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md")
GRAPHS = "graphs"  # kind of the folders in the cache
EXPORTER = ("onnx", "onnxscript")  # packages


def onnx_engine(folder: Path, bundled: bool, int8: bool = False, budget: int | None = None) -> OnnxEngine:
    """The ONNX engine of a captioner folder. Its graphs are exported if neither the package nor the cache has them.

    Args:
        folder: The captioner folder.
        bundled: Whether it is the bundled captioner, which brings its graphs.
        int8: Whether linear layers have 8-bit weights.
        budget: Side of the compressed grid that will be asked for; None for all that it was trained for.

    Raises:
        CaptionerError: The graphs can't be exported.
        VlcapError: The folder holds no captioner of ours.
    """
    if bundled and not int8 and (folder / SETTINGS).is_file():
        engine = OnnxEngine(folder)
        if budget is None or budget in engine.exported:
            return engine
    return OnnxEngine(_cached(folder, int8, budget))


def _cached(folder: Path, int8: bool, budget: int | None) -> Path:
    """The folder of a captioner's graphs in the cache, which is filled if it is empty."""
    place = place_of(folder, int8, budget)
    if _is_ours(place):
        return place
    missing = [name for name in EXPORTER if importlib.util.find_spec(name) is None]
    if missing:
        raise CaptionerError(f"exporting to ONNX needs the package {missing[0]}: pip install {missing[0]}")
    from filelock import FileLock

    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):
        if not _is_ours(place):  # another process may have written it meanwhile
            _export(folder, place, int8, budget)
    return place


def place_of(folder: Path, int8: bool, budget: int | None) -> Path:
    """Where the cache keeps a captioner's graphs. The name is a digest of everything that they depend on."""
    digest = hashlib.sha256(f"{int8} {budget}".encode())
    for name in SOURCES:
        if (folder / name).is_file():
            digest.update(f"{name} {digest_file(folder / name)}".encode())
    return cache_folder() / GRAPHS / f"v{VERSION}-{digest.hexdigest()[:24]}"


def _export(folder: Path, place: Path, int8: bool, budget: int | None) -> None:
    from rich.console import Console
    from rich.progress import track
    from transformers.utils import logging

    from .graphs import export_graphs

    logging.disable_progress_bar()  # of reading the weights, which takes an instant

    def shown(graphs: Iterable[Any]) -> Iterable[Any]:
        console = Console(file=sys.stderr)
        return track([*graphs], description="exporting graphs", console=console, transient=True)

    check_replaceable(place, GRAPHS)
    engine, budgets = torch_engine(folder, device="cpu"), None if budget is None else [budget]
    engine.model.encoder.check_budgets(budgets or [])
    print(
        f"vlcap: preparing {folder} for ONNX Runtime, once: about a minute, kept in {place} "
        f"(--engine pytorch starts at once)",
        file=sys.stderr,
    )
    with written_whole(place, GRAPHS) as new:
        export_graphs(engine, new, budgets=budgets, int8=int8, track=shown)


def _is_ours(place: Path) -> bool:
    """Whether a folder of the cache is complete and belongs to this user."""
    if not (place / SETTINGS).is_file():
        return False
    if hasattr(os, "getuid") and place.stat().st_uid != os.getuid():
        raise CaptionerError(f"{place} belongs to another user: set {CACHE} to a folder of your own")
    return True


def cache_folder() -> Path:
    """The user's cache: $VLCAP_CACHE, or the system's usual place."""
    if asked := os.environ.get(CACHE):
        return Path(asked)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "vlcap" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "vlcap"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlcap"
