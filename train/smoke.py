"""`--smoke`: runs any recipe in seconds, to check that its command works from beginning to end.

A smoke run of RUNS/NAME writes a new folder RUNS/NAME/smoke-N and changes nothing else. If the recipe builds on
RUNS/OTHER, the smoke run builds on the latest smoke run of RUNS/OTHER, if there is one.
"""

import json
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from vlcap.files.writing import fresh_folder, numbered
from vlcap.model.encoder import Encoder
from vlcap.processes import connect

from .new_encoder import DECODER

ARCHITECTURE, HYBRID = "lookupvit_test_patch8_48", "lookupvit_hybrid_test_64"
OF_CLIPS = {"lookupvivit_": "lookupvivit_test_patch8x2_48", "vivit_": "vivit_test_patch8x2_48"}
SMALL = {
    "words": 20,
    "init_from": None,
    "reduce": None,  # over a pretrained encoder, which is not fetched
    "teacher": None,
    "feature_weight": 0.0,
    "stream": False,
    "vocab_size": 1000,
    "vocab": "all",
    "freeze_decoder": False,
    "lora_rank": 0,
    "group": 8,
    "width": 32,
    "layers": 1,
    "heads": 2,
    "cider": True,
    "steps": 2,
    "batch_size": 4,
    "limit": 24,
    "workers": 0,
    "save_every": 1,
    "evaluate_every": 1,
    "compile": False,
}
RUN = "run"  # subfolder with the run itself; what it shares with other runs is next to it


def smoke(recipe: Any, out: Path) -> tuple[Any, Path]:
    """Shrinks a recipe of any trainer and makes a new folder for it. Downloads no pretrained weights."""
    folder = smoke_folder(out)
    small: dict[str, Any] = {key: value for key, value in SMALL.items() if key in type(recipe).model_fields}
    small["budgets"] = [2, 3] if recipe.budgets else None
    fields = type(recipe).model_fields
    if "start_from" in fields:  # a captioner recipe
        small["cache_views"] = min(recipe.cache_views, 2)
        small["image_size"] = None
        small["decoder"] = _smoked(recipe.decoder)
        small["start_from"] = _smoked(recipe.start_from)
        small["encoder"] = None if small["start_from"] else _smoked(recipe.encoder) or str(folder / "untrained")
        if small["start_from"]:  # its decoder stays as it is
            small |= {name: fields[name].default for name in DECODER}
    elif "encoder" in fields:  # a classifier recipe
        of_clips = [test for family, test in OF_CLIPS.items() if recipe.encoder.startswith(family)]
        other = HYBRID if recipe.reduce or "_hybrid_" in recipe.encoder else ARCHITECTURE
        small["encoder"] = _smoked(recipe.encoder) or (of_clips[0] if of_clips else other)
        hybrid = "_hybrid_" in _architecture(small["encoder"])
        small["image_size"] = 64 if hybrid else 48
        small["cache_views"] = min(recipe.cache_views, 2) if hybrid else 0  # no teacher: nothing to cache
    return recipe.model_copy(update=small), folder / RUN


def _architecture(encoder: str) -> str:
    """An encoder's architecture, given its folder or the architecture itself."""
    config = Path(encoder) / "config.json"
    return json.loads(config.read_text(encoding="utf-8"))["architecture"] if config.is_file() else encoder


def smoke_folder(out: Path) -> Path:
    """Makes a new folder for a smoke run, the same in all processes, with an untrained encoder."""
    made = [""]
    if connect():
        folder = fresh_folder(out, "smoke")
        Encoder.create(ARCHITECTURE).save_pretrained(folder / "untrained")
        made = [str(folder)]
    return Path(broadcast_object_list(made)[0])


def _smoked(folder: str | None) -> str | None:
    """For RUNS/NAME/encoder, the latest RUNS/NAME/smoke-N/run/encoder, if there is one."""
    if folder is None:
        return None
    path = Path(folder)
    found = [made / RUN / path.name for _, made in numbered(path.parent, "smoke")]
    return next((str(small) for small in reversed(found) if small.is_dir()), None)
