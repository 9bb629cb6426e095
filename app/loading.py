"""Loading what the options name: captioners, budgets and search settings."""

import atexit
import gc
from pathlib import Path
from typing import Any

import typer

from vlcap.data.names import one_line

from .parsing import parse_budget, parse_named
from .printing import say


def load(model: str | None, engine: str | None = None, fastest: bool = False, **settings: Any) -> Any:
    """Loads a captioner.

    Args:
        model: Folder or hub id; None for the bundled captioner.
        engine: onnx or pytorch; None for the one that suits the device.
        fastest: Whether PyTorch uses a GPU's fastest number type. Scores need float32, to be the same everywhere.
        settings: int8 and budget, as for `Captioner.from_pretrained`.
    """
    gc.disable()  # imports make a million objects and no garbage: looking for it would take a seventh of the time
    try:
        from vlcap.captioner import Captioner
        from vlcap.engines.choose import choose

        if choose(engine) == "pytorch":
            hide_loading_bars()
            if fastest and not settings.get("int8"):
                from vlcap.engines.pytorch import fastest_dtype

                settings["dtype"] = fastest_dtype()
        return Captioner.from_pretrained(model, engine=engine, **settings)
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # otherwise libraries complain at exit about objects left in reference cycles


def load_any(model: str | None, engine: str | None = None, **settings: Any) -> Any:
    """Loads a captioner as `load` does, or a third-party one: hf:ID or hf:FOLDER, which PyTorch runs.

    Args:
        model: Folder or hub id; None for the bundled captioner. A path that exists is a folder, whatever its name.
        engine: As for `load`.
        settings: As for `load`.
    """
    if model is None or not is_foreign(model):
        return load(model, engine, **settings)
    if settings.get("int8"):
        raise typer.BadParameter(f"--int8 is for vlcap's captioners, not for {model}")
    if engine not in (None, "pytorch"):
        raise typer.BadParameter(f"--engine {engine} is for vlcap's captioners, not for {model}: PyTorch runs it")
    hide_loading_bars()
    from transformers.utils import logging

    from vlcap.evaluation.hugging_face import load_hugging_face

    logging.set_verbosity_error()  # its warnings are for programmers; what matters is checked, and is an error

    return load_hugging_face(model)


def is_foreign(model: str | None) -> bool:
    """Whether this names a third-party captioner."""
    return model is not None and model.startswith("hf:") and not Path(model).exists()


def load_named(model: str) -> tuple[str, Any]:
    """Loads the captioner of NAME=FOLDER or FOLDER. A third-party one has a name of its own."""
    name, source = parse_named("--model", model)
    captioner = load_any(source, engine="pytorch")
    return one_line(captioner.name) if source == model and is_foreign(model) else name, captioner


def hide_loading_bars() -> None:
    """Hides transformers' progress bars: the weights are read in an instant."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def check_budget(captioner: Any, budget: int | None) -> int | None:
    """Returns the budget, with a warning if the captioner was not trained for it."""
    if budget is not None and budget not in captioner.budgets:
        trained = ", ".join(map(str, captioner.budgets))
        say(f"warning: {captioner.name} was trained for budgets {trained}, not {budget}: its captions will be worse")
    return budget


def choose_budget(captioner: Any, text: str | None, model: str | None) -> Any:
    """The budget that --budget names: a side of the grid, a rule, or None for the model's own."""
    if text != "auto" and is_foreign(model):
        return parse_budget(text)  # it refuses all but its own
    if text != "auto":
        return check_budget(captioner, parse_budget(text))
    from vlcap.auto_budget import read_rule

    if is_foreign(model):
        raise typer.BadParameter(f"--budget auto is for vlcap's captioners, not for {model}")
    rule = read_rule(folder_of(model))
    for budget in rule.budgets:
        check_budget(captioner, budget)
    return rule


def rule_of(model: str | None) -> Any:
    """The rule of the budget "auto" in the captioner folder that --model names; None if it has none.

    Raises:
        CaptionerError: It is damaged.
    """
    from vlcap.auto_budget import FILE, read_rule

    folder = folder_of(model)
    return read_rule(folder) if (folder / FILE).is_file() else None


def folder_of(model: str | None) -> Path:
    """The captioner folder that --model names."""
    from vlcap.captioner import find_captioner

    return find_captioner(model)


def search_settings(beams: int | None) -> dict[str, int]:
    """Generation settings for --beams; without it, the captioner's own apply."""
    return {} if beams is None else {"num_beams": beams}


def search_for(captioner: Any, beams: int | None, count: int) -> dict[str, int]:
    """Generation settings for --beams and --count, which needs as many beams as captions."""
    settings = search_settings(beams)
    searched = captioner.generation(**settings).get("num_beams", 1)
    if count <= max(1, searched):
        return settings
    say(f"searching with {count} beams instead of {searched}, to find {count} captions per photo")
    return {"num_beams": count}


def identify(model: str | None, captioner: Any, int8: bool | None) -> dict[str, Any]:
    """What distinguishes a loaded captioner from others: its files by their content, and what runs it."""
    from vlcap.model.finding import digests_of

    return {"captioner": digests_of(folder_of(model)), "engine": captioner.engine.kind, "int8": int8}
