"""The model card of a captioner folder, README.md: metadata in Hugging Face's form, and a page for people.

A card of ours is made from its metadata and the captioner alone, so it can be made again when scores are added. What
the metadata of Hugging Face has no place for, the settings of the training, is under the key `vlcap`. A card without
that key was written by a person: its text stays as it is.

Data sets and settings of a training are read from the run that the captioner's folder lies in (RUN/captioner).
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..engines.interface import Facts
from ..errors import CaptionerError, reason
from ..files.json_file import load_json
from ..files.writing import digest_file

CARD = "README.md"
MAX_BYTES = 1024**2  # of a card or a recipe
OURS = "vlcap"  # key of the metadata
SCORES = {"CIDEr": "cider", "Bleu_4": "bleu", "ROUGE_L": "rouge", "METEOR": "meteor", "SPICE": "spice"}
PATHS = ("encoder", "start_from", "decoder")  # settings that may name a folder of the machine of the training
UNKNOWN = "unknown"  # Hugging Face's word for a license that nobody has named


@dataclass(frozen=True)
class About:
    """What a card is made from, besides the captioner.

    Attributes:
        name: Name of the model.
        source: Folder that the captioner was loaded from; None if it was made in memory.
        license: Hugging Face's name of the license of the weights; None for what the folder's card says.
        metrics: Files metrics.json that `vlcap evaluate` wrote for this captioner.
    """

    name: str
    source: Path | None = None
    license: str | None = None
    metrics: Sequence[str | Path] = ()


def make_card(facts: Facts, about: About) -> str:
    """The text of README.md.

    Args:
        facts: The captioner.
        about: What else is known.

    Raises:
        CaptionerError: A file of metrics is none, or the folder's card cannot be read where it has to be changed.
    """
    text = _read_card(about.source)
    results = [result for path in about.metrics for result in _results(path, about.source)]
    if text is not None and not is_ours(text):
        return text if not results and about.license is None else _with_metadata(text, results, about)
    data: Any = ModelCard(text).data if text is not None else _new_data(about)
    _add(data, results, about)
    return f"---\n{data.to_yaml(line_break=chr(10))}\n---\n\n{_page(data, facts, about.name)}"


def is_ours(text: str) -> bool:
    """Whether the text of a card is one that `make_card` made."""
    try:
        return text.startswith("---") and isinstance(ModelCard(text).data.get(OURS), dict)
    except Exception:  # damaged metadata makes the library and PyYAML raise anything
        return False


def _read_card(folder: Path | None) -> str | None:
    """The text of the card in a folder; None if there is none."""
    path = folder / CARD if folder else None
    if path is None or not path.is_file() or path.stat().st_size > MAX_BYTES:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CaptionerError(f"{path}: is not a text in UTF-8: correct it, or move it elsewhere") from None


def _with_metadata(text: str, results: list[EvalResult], about: About) -> str:
    """A person's card, with scores and license in its metadata."""
    try:
        card = ModelCard(text)
    except Exception as error:  # as in `is_ours`
        raise CaptionerError(f"{CARD} of {about.source}: its metadata cannot be read ({reason(error, 200)})") from None
    _add(card.data, results, about)
    return str(card)


def _add(data: Any, results: list[EvalResult], about: About) -> None:
    """Adds scores and license to metadata; a score replaces one of the same kind on the same data."""
    new = {_kind(result): result for result in results}
    kept = [result for result in data.eval_results or [] if _kind(result) not in new]
    data.eval_results = [*kept, *new.values()] or None
    data.metrics = [*dict.fromkeys([*(data.metrics or []), *(result.metric_type for result in results)])] or None
    if data.eval_results:
        data.model_name = about.name.rpartition("/")[2]
    if about.license is not None and about.license != data.license:
        data.license = about.license
        data.license_name = data.license_link = None  # of the license before


def _kind(result: EvalResult) -> tuple[Any, ...]:
    return (*result.unique_identifier, result.metric_type, str(result.metric_args))


def _new_data(about: About) -> ModelCardData:
    """The metadata of a card, without scores."""
    data_sets, recipe = _training(about.source)
    known: dict[str, Any] = {
        "license": UNKNOWN,
        "library_name": "vlcap",
        "pipeline_tag": "image-to-text",
        "tags": ["image-captioning", "lookupvit"],
        "datasets": data_sets or None,
        OURS: {"recipe": recipe},
    }
    return ModelCardData(**known)


def _training(folder: Path | None) -> tuple[list[str], dict[str, Any]]:
    """Names of the training data, and the settings, of the run that the folder lies in; empty if it lies in none."""
    run = folder.resolve().parent if folder else None
    if run is None or folder is None or folder.resolve().name != "captioner" or not (run / "run.json").is_file():
        return [], {}
    try:
        known = load_json(run / "run.json", max_bytes=MAX_BYTES)
        names = [each["name"] for each in known["data"] if each["split"] == "train"]
        path = run / "recipe.yaml"
        recipe = yaml.safe_load(path.read_text(encoding="utf-8")) if path.stat().st_size <= MAX_BYTES else {}
        settings = {key: _shown(key, value) for key, value in recipe.items() if value is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        fault = f"{type(error).__name__} in its run.json or recipe.yaml"
        warnings.warn(f"{run}: the card says nothing of the training: {fault}", stacklevel=2)
        return [], {}
    return [Path(str(name)).name for name in dict.fromkeys(names)], settings


def _shown(key: str, value: Any) -> Any:
    """A setting as the card shows it: of a path, only the last two parts."""
    return "/".join(Path(value).parts[-2:]) if key in PATHS and isinstance(value, str) else value


def _results(path: str | Path, source: Path | None) -> Iterable[EvalResult]:
    """The scores in a metrics.json of `vlcap evaluate`, x 100.

    Raises:
        CaptionerError: It is no such file, or one of another captioner than that of the folder `source`.
    """
    report = load_json(path, max_bytes=MAX_BYTES, error=CaptionerError)
    if not isinstance(report, dict) or not {"CIDEr", "N", "data", "split", "budget"} <= report.keys():
        raise CaptionerError(f"{path}: is no metrics.json of `vlcap evaluate` with a CIDEr in it")
    weights = source / "model.safetensors" if source else None
    if weights and weights.is_file() and report.get("weights_sha256", digest_file(weights)) != digest_file(weights):
        raise CaptionerError(f"{path}: has the scores of a captioner with other weights: evaluate this one")
    for name, kind in SCORES.items():
        if isinstance(report.get(name), (int, float)):
            yield EvalResult(
                task_type="image-to-text",
                task_name="Image captioning",
                dataset_type=str(report["data"]),
                dataset_name=str(report["data"]),
                dataset_split=str(report["split"]),
                metric_type=kind,
                metric_name=f"{name} x 100",
                metric_value=round(100 * report[name], 2),
                metric_args={"N": report["N"], "budget": report["budget"], **_conditions(report)},
            )


def _conditions(report: Mapping[str, Any]) -> dict[str, Any]:
    """Further settings that a score depends on, as far as they are known."""
    generation = report.get("generation")
    beams = generation.get("num_beams") if isinstance(generation, dict) else None
    return ({} if beams is None else {"num_beams": beams}) | ({"int8": True} if report.get("int8") is True else {})


def _page(data: Any, facts: Facts, name: str) -> str:
    """The card's text for people."""
    budgets = ", ".join(map(str, facts.budgets))
    sets = data.datasets or []
    named = ", ".join(map(str, [sets] if isinstance(sets, str) else sets))
    recipe = data.get(OURS, {}).get("recipe") or {}
    license_named = data.license not in (None, UNKNOWN)
    size = f"{facts.pixels.size} px"
    if facts.frames:  # its encoder reads clips
        what, of = "video", f"clips of {facts.frames} frames of {size}"
        grid = "5 x 5 tokens at each of its steps of time"
        use = f'caption_videos(captioner, ["clip.mp4"], budget={facts.budget})'
        imports = "from vlcap import Captioner\nfrom vlcap.video import caption_videos"
    else:
        what, of, grid = "photo", f"photos of {size}", "5 x 5 tokens"
        use = f'captioner.caption(["photo.jpg"], budget={facts.budget})'
        imports = "from vlcap import Captioner"
    parts = [
        f"# {name.rpartition('/')[2]}",
        f"This model writes a sentence about a {what}, from few visual tokens. Its encoder is "
        f"`{facts.architecture}`, for {of}. A GPT-2 style decoder reads the encoder's "
        f"tokens, at one of these budgets: {budgets} (a budget of 5 is a grid of {grid}; the default is "
        f"{facts.budget}). It has {facts.parameters / 1e6:.1f} M parameters. It was made with vlcap.",
        "## Use",
        f"```python\n{imports}\n\n"
        f'captioner = Captioner.from_pretrained("{name}")  # this folder, or its id on the hub\n{use}\n```',
        "After `import vlcap`, `transformers.AutoModelForImageTextToText.from_pretrained` loads the same model. No "
        "code of this repository is run.",
        "## Training data",
        f"{named}." if named else "Not recorded.",
        *_settings(recipe),
        "## Scores",
        _table(data.eval_results or []),
        "## License",
        f"{data.license}. The terms of the training data apply as well."
        if license_named
        else "Nobody has named a license for these weights. The terms of the training data apply.",
        "## Limits",
        "Captions can be wrong, above all in colors, counts and secondary things. The model knows only the words and "
        "the things of its training data. Never use it where a wrong description of a person matters.",
    ]
    return "\n\n".join(parts) + "\n"


def _settings(recipe: Mapping[str, Any]) -> list[str]:
    if not recipe:
        return []
    return ["Settings of the training:", f"```yaml\n{yaml.safe_dump(recipe, sort_keys=False).strip()}\n```"]


def _table(results: Sequence[EvalResult]) -> str:
    """Scores as a table, with the number of photos of each: scores on different sets are not comparable."""
    if not results:
        return "Not evaluated."
    lines = ["| data | split | photos | budget | metric | value |", "| --- | --- | ---: | ---: | --- | ---: |"]
    for each in results:
        known = each.metric_args or {}
        lines.append(
            f"| {each.dataset_name} | {each.dataset_split or ''} | {known.get('N', '')} | {known.get('budget', '')} | "
            f"{each.metric_name or each.metric_type} | {each.metric_value} |"
        )
    return "\n".join(lines)
