"""Studies: encoders trained, a decoder trained on each, all compared. The rows come from one recipe.

    vlcap train study --recipe study-tokens --data-classes DIR --data-captions DIR --out RUN
    vlcap train table3 --recipe small --data-classes DIR --data-captions DIR --out RUN

The LookupViT paper's Table 3, its Table 5, and the experiments of docs/experiments.md are such recipes. A row's encoder
runs through its stages of classification or comes from a given folder. It is then frozen, and a decoder learns to
caption from its tokens. RUN/comparison holds the result, RUN/stages.md what each stage took and reached.

Each stage is a run of the ordinary trainers in a folder of its own, RUN/ROW-STAGE; they share the caches beside them.
The same command resumes a study that was stopped.
"""

import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from vlcap import processes
from vlcap.captioner import Captioner
from vlcap.data.captions import CaptionSet, read_captions
from vlcap.evaluation.compare import Comparison, Contender, compare, contender, slug
from vlcap.evaluation.metrics import check_references
from vlcap.files.writing import replacing, written_whole
from vlcap.model.encoder import Encoder
from vlcap.model.timm_encoder import check_name, make_encoder, names_timm

from .captioner import CaptionerRecipe, train_captioner
from .classifier import ClassifierRecipe, train_classifier
from .labels import read_labeled
from .loop import TrainingError
from .new_decoder import is_pretrained
from .progress import read_log
from .run_folder import Data, check_recipe, know_data, own
from .sampling import seed_all
from .streaming import read_stream
from .study_recipe import CAPTIONER, ENCODER, StudyRecipe, StudyRow, names_folder
from .teacher import start_from

FILES = ("recipe.yaml", "stages.json", "stages.md")
MEASURES = ("top1", "mAP")  # of classification


@dataclass(frozen=True)
class Result:
    """A comparison of all rows on one caption set, and the folder that it belongs in."""

    comparison: Comparison
    captions: CaptionSet
    folder: Path


def train_study(
    recipe: StudyRecipe,
    classes: Sequence[str],
    captions: Sequence[str],
    out: Path,
    rows: Sequence[str] | None = None,
    track: Callable[[Iterable, int, str], Iterable] = lambda items, total, what: items,
) -> list[Result]:
    """Trains every row and compares them all; resumes where it was stopped.

    Args:
        recipe: The study.
        classes: Folders of labeled photos, as `train_classifier` takes them.
        captions: Folders of captioned photos. The comparison is on the first one, or on each (`every_set`).
        out: Folder of the study.
        rows: Names of the rows to train and compare; None for all.
        track: Progress display, as for `compare`.

    Raises:
        RecipeError: No row has such a name.
        TrainingError: A stage was begun with other settings or can't go on, something that a row builds on is missing,
            or this is one of several processes.
    """
    if processes.several():
        raise TrainingError(
            "train study is for one process; torchrun can train its stages: train classifier or captioner with the "
            "recipe.yaml of a stage's folder, and that folder as --out"
        )
    chosen = recipe.chosen(rows)
    _check_inputs(recipe, chosen, classes)  # now, not after hours of training; and so with the splits
    splits = {
        name: read_captions(folder, recipe.split, limit=recipe.limit)
        for name, folder in recipe.comparisons(captions).items()
    }
    for split in splits.values():
        check_references(split.references(), f"{split.name}, {split.split}")
    out = out.absolute()  # a stage's recipe names its encoder's folder: the same one, however --out is spelled
    out.mkdir(parents=True, exist_ok=True)
    own(out, "study", FILES)
    know_data(out, _data(recipe, classes, captions))
    contenders: list[Contender] = []
    load = cache(_load)
    for given in filter(None, map(recipe.model_of, chosen)):
        load(given)  # now, not after hours of training
    for number, row in enumerate(chosen, start=1):
        title = f"row {number} of {len(chosen)}: {row.name}"
        model = recipe.model_of(row) or str(_train_row(recipe, row, classes, captions, out, title))
        contenders += [
            contender(row.name, load(model), recipe.compare_at_of(row), row.generation, size)
            for size in row.image_sizes or (None,)
        ]
    _write_tables(recipe, out)
    return [
        Result(
            compare(contenders, split, out / name, seed=recipe.seed, rounds=recipe.rounds, track=track),
            split,
            out / name,
        )
        for name, split in splits.items()
    ]


def _check_inputs(recipe: StudyRecipe, rows: Sequence[StudyRow], classes: Sequence[str]) -> None:
    """Whether everything that the rows build on is there.

    Raises:
        TrainingError, ModelFolderError: A folder or the labeled photos are missing.
    """
    for row in rows:
        encoder = recipe.encoder_of(row)
        if encoder is None:
            continue
        if names_timm(encoder):
            check_name(encoder)
        if names_folder(encoder) and not Path(encoder).is_dir():
            raise TrainingError(
                f"row {row.name}: there is no encoder folder {encoder}: train it first, or name another with "
                "--set encoder=FOLDER"
            )
        decoder = recipe.captioner_recipe(row, ENCODER).decoder
        if decoder and not Path(decoder).is_dir() and not is_pretrained(decoder):
            raise TrainingError(
                f"row {row.name}: there is no decoder folder {decoder}: train it first, name another with "
                "--set captioner.decoder=FOLDER, or start from random weights with --set captioner.decoder=null"
            )
    if labeled := [row.name for row in recipe.all_rows if not classes and _labeled_stages(recipe, row)]:
        raise TrainingError(
            f"row {labeled[0]} learns from labeled photos: give --data-classes. All rows share one record of the "
            "data, so it is needed even if --row chooses others"
        )


def _labeled_stages(recipe: StudyRecipe, row: StudyRow) -> list[ClassifierRecipe]:
    stages = [recipe.classifier_recipe(row, stage) for stage in recipe.stages_of(row)]
    return [stage for stage in stages if stage.target == "label"]


def _data(recipe: StudyRecipe, classes: Sequence[str], captions: Sequence[str]) -> list[Data]:
    """What all rows are trained on."""
    sets = [read_captions(folder, split) for folder in captions for split in ("train", "val")]
    found = [Data(each.split, each.name, len(each), each.identity()) for each in sets]
    labeled = [stage for row in recipe.all_rows for stage in _labeled_stages(recipe, row)]
    streamed = next((stage for stage in labeled if stage.stream), None)
    for folder in classes if labeled else []:
        if streamed:
            stream = read_stream(folder, "train", streamed.classes)
            found.append(Data("train", folder, stream.images, stream.identity()))
        for split in ("val",) if streamed else ("train", "val"):
            photos = read_labeled(folder, split)
            found.append(Data(split, folder, len(photos), photos.identity()))
    return found


def _load(model: str) -> Captioner:
    return Captioner.from_pretrained(model, engine="pytorch")


def _train_row(
    recipe: StudyRecipe, row: StudyRow, classes: Sequence[str], captions: Sequence[str], out: Path, title: str
) -> Path:
    """Runs the stages of a row that are not done yet; returns the captioner's folder."""
    before: Path | None = None
    for name in recipe.stages_of(row):
        stage = recipe.classifier_recipe(row, name, before)
        folder = out / f"{slug(row.name)}-{name}"
        _stage(folder, stage, f"{title}, {name}", [*(captions if stage.target == "words" else classes)])
        before = folder / "encoder"
    folder = out / f"{slug(row.name)}-{CAPTIONER}"
    _stage(
        folder,
        recipe.captioner_recipe(row, _encoder(recipe, row, before, out)),
        f"{title}, {CAPTIONER}",
        [*captions],
    )
    return folder / "captioner"


def _stage(out: Path, recipe: ClassifierRecipe | CaptionerRecipe, title: str, data: list[str]) -> None:
    """Runs a stage unless it is done; stage.json, written at its end, holds its recipe, figures and time."""
    done = out / "stage.json"
    # By value: a setting that came with a newer version has its default in an older run.
    if done.is_file() and type(recipe)(**json.loads(done.read_text(encoding="utf-8"))["recipe"]) == recipe:
        check_recipe(out, recipe)  # the encoder that it began from may have been trained further since
        return
    Console(file=sys.stderr).print(f"[bold]{title}[/bold], in {out}", highlight=False)
    if isinstance(recipe, ClassifierRecipe):  # either refuses a folder that was begun with other settings
        train_classifier(recipe, data, out)
    else:
        train_captioner(recipe, data, out)
    log = read_log(out / "log.jsonl")
    figures: dict[str, Any] = next(
        (entry for entry in reversed(log) if any(name.startswith("val_loss") for name in entry)), {}
    )
    with replacing(done) as file:
        json.dump(
            {
                "recipe": recipe.model_dump(mode="json"),
                "figures": {name: value for name, value in figures.items() if name not in ("time", "step")},
                "minutes": round(_seconds([entry["time"] for entry in log]) / 60, 1),
            },
            file,
            indent=2,
        )


def _seconds(times: list[float]) -> float:
    """How long a log took, from its first entry; pauses between a stop and the next start count as an ordinary gap."""
    gaps = [after - before for before, after in itertools.pairwise(times)]
    usual = statistics.median(gaps) if gaps else 0.0
    return sum(gap if gap < max(60, 10 * usual) else usual for gap in gaps)


def _encoder(recipe: StudyRecipe, row: StudyRow, trained: Path | None, out: Path) -> Path | str:
    """The encoder folder that a row's captioner reads.

    It is the last stage's or the given one as they are. If the row asks for other arguments or the study for another
    image size, it is a copy in a folder of its own, and so is a new encoder that nothing trains.

    Args:
        recipe: The study.
        row: The row.
        trained: Encoder folder of the last stage of classification; None without one.
        out: Folder of the study.
    """
    encoder = recipe.encoder_of(row)
    assert encoder is not None  # for the type checker: a row that compares a given captioner trains nothing
    given = trained or (Path(encoder) if names_folder(encoder) else None)
    changed_args = row.model_args if trained is None else {}
    if given and not changed_args and _fits(recipe, given):
        return trained or encoder
    folder = out / f"{slug(row.name)}-{ENCODER}"
    there = (folder / "config.json").is_file()
    if there and not _fits(recipe, folder):
        raise TrainingError(f"{folder} is for photos of another size than {recipe.image_size}: choose another --out")
    if there and not given:  # its weights may be random: never a second time
        return folder
    made = _with_arguments(given, changed_args) if given else _new_encoder(recipe, row, encoder)
    if recipe.image_size and recipe.image_size != made.pixels.size:
        made.set_image_size(recipe.image_size)
    with written_whole(folder, ENCODER) as new:
        made.save_pretrained(new)
    return folder


def _fits(recipe: StudyRecipe, encoder: Path) -> bool:
    """Whether an encoder is for photos of the study's size."""
    return recipe.image_size is None or recipe.image_size == Encoder.load(encoder).pixels.size


def _with_arguments(folder: Path, model_args: dict[str, Any]) -> Encoder:
    """A trained encoder without its heads, its weights kept under changed arguments."""
    encoder = Encoder.load(folder).without_heads()
    return encoder.with_arguments(model_args) if model_args else encoder


def _new_encoder(recipe: StudyRecipe, row: StudyRow, architecture: str) -> Encoder:
    """An encoder that nothing trains: what its pretrained weights make it, or a random one."""
    seed_all(recipe.seed)
    if names_timm(architecture):
        return make_encoder(architecture, row.reduce, row.budgets, **recipe.model_args_of(row))
    made = Encoder.create(architecture, pretrained=row.pretrained, **recipe.model_args_of(row))
    if row.init_from:
        start_from(made, row.init_from)
    return made.set_budgets(row.budgets) if row.budgets else made


def _write_tables(recipe: StudyRecipe, out: Path) -> None:
    """recipe.yaml; stages.json, all stages that are done; stages.md, the same as a table with a line per row."""
    folders = [folder for row in recipe.all_rows for folder in recipe.folders_of(row)]
    stages = {
        folder: json.loads((out / folder / "stage.json").read_text(encoding="utf-8"))
        for folder in folders
        if (out / folder / "stage.json").is_file()
    }
    (out / "stages.json").write_text(json.dumps(stages, indent=2) + "\n", encoding="utf-8")
    (out / "stages.md").write_text(stage_table(recipe, stages), encoding="utf-8")
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def stage_table(recipe: StudyRecipe, stages: dict[str, Any]) -> str:
    """A Markdown table of what each trained row took and reached.

    Args:
        recipe: The study.
        stages: What stages.json holds.
    """
    lines = [
        "| row | about | changed | minutes | classification | CIDEr x 100 | distinct, % | loss |",
        "| --- | --- | --- | ---: | --- | --- | --- | --- |",
    ]
    for row in recipe.all_rows:
        *classified, captioned = [stages.get(folder, {}) for folder in recipe.folders_of(row) or [""]]
        if not captioned:
            continue
        figures = captioned["figures"]
        best = [f"{name} {100 * value:.1f} %" for name, value in map(_best, classified) if name]
        cells = [
            f"`{row.name}`",
            row.about,
            ", ".join(f"{key}={value}" for key, value in row.changes().items()),
            f"{sum(stage['minutes'] for stage in (*classified, captioned)):.0f}",
            ", ".join(best),
            " / ".join(f"{value:.1f}" for name, value in figures.items() if name.startswith("CIDEr")),
            " / ".join(f"{value:.0f}" for name, value in figures.items() if name.startswith("distinct")),
            f"{figures['val_loss']:.2f}" if "val_loss" in figures else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _best(stage: dict[str, Any]) -> tuple[str, float]:
    """The highest figure of a stage of classification (`top1@3`, `top1@4`), with its name."""
    figures = [(name, value) for name, value in stage["figures"].items() if name.startswith(MEASURES)]
    return max(figures, key=lambda pair: pair[1], default=("", 0.0))
