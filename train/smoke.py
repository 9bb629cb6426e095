"""`--smoke`: any recipe in seconds, to see that its command goes through from beginning to end.

A smoke run of RUNS/NAME lies in RUNS/smoke/NAME, beside the real one and never in its way; where a recipe builds on
RUNS/OTHER, the smoke run builds on RUNS/smoke/OTHER if that is there.
"""

import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState

from vlcap.encoder import Encoder
from vlcap.processes import connect

ARCHITECTURE, HYBRID = "lookupvit_test_patch8_48", "lookupvit_hybrid_test_64"
SMALL = {
    "words": 20, "init_from": None, "teacher": None, "feature_weight": 0.0, "stream": False,
    "vocab_size": 100, "width": 32, "layers": 1, "heads": 2, "cider": True,
    "steps": 2, "batch_size": 4, "limit": 24, "workers": 0, "save_every": 1, "evaluate_every": 1, "compile": False,
}

def smoke(recipe: Any, out: Path) -> tuple[Any, Path]:
    """The same recipe, of either trainer, made small, and an empty folder for it. Pretrained weights aren't fetched."""
    out = beside(out)
    if connect():
        shutil.rmtree(out, ignore_errors=True)
        Encoder.create(ARCHITECTURE).save_pretrained(out / "untrained")
    PartialState().wait_for_everyone()
    small: dict[str, Any] = {key: value for key, value in SMALL.items() if key in type(recipe).model_fields}
    small["budgets"] = [2, 3] if recipe.budgets else None
    if "start_from" not in type(recipe).model_fields:
        hybrid = "_hybrid_" in recipe.encoder or (recipe.cache_views > 0 and recipe.teacher is None)
        small["encoder"] = _smoked(recipe.encoder) or (HYBRID if hybrid else ARCHITECTURE)
        small["image_size"] = 64 if hybrid else 48
        small["cache_views"] = min(recipe.cache_views, 2) if hybrid else 0  # without a teacher there is nothing to keep
    else:
        small["cache_views"] = min(recipe.cache_views, 2)
        small["start_from"] = _smoked(recipe.start_from)
        small["encoder"] = None if small["start_from"] else _smoked(recipe.encoder) or str(out / "untrained")
    return recipe.model_copy(update=small), out


def beside(run: Path) -> Path:
    """Where the smoke run of a run lies."""
    return run.parent / "smoke" / run.name


def _smoked(folder: str | None) -> str | None:
    """RUNS/smoke/NAME/encoder for RUNS/NAME/encoder, if it is there."""
    if folder is None:
        return None
    path = Path(folder)
    small = beside(path.parent) / path.name
    return str(small) if small.is_dir() else None

