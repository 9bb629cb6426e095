"""The whole comparison from nothing: encoders trained alike, a decoder trained on each, all compared.

    vlcap train table3 --recipe small --data-classes DIR --data-captions DIR --out RUN

The LookupViT paper's Table 3 in small: every row's encoder learns the same classification task, is frozen, and the same
decoder learns to caption from its tokens. RUN/comparison holds the result. Alike means: the same images seen in the
same order with the same augmentation, optimiser, schedule and seed, the same width, depth and patches; not the same
time. Each stage is a run of the ordinary trainers in a folder of its own, RUN/ROW/classifier and RUN/ROW/captioner:
stopped at any point, the same command goes on from there.
"""

import itertools
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console

from vlcap.captioner import Captioner
from vlcap.data.captions import read_captions
from vlcap.evaluation.compare import Comparison, Contender, compare, contender, slug
from vlcap.files.writing import replacing, written_whole
from vlcap.model.encoder import Encoder

from .captioner import CaptionerRecipe, train_captioner
from .classifier import ClassifierRecipe, train_classifier
from .labels import read_labelled
from .loop import TrainingError
from .progress import read_log
from .recipe import Recipe, RecipeError
from .run_folder import Data, check_recipe, know_data, own
from .streaming import read_stream

# What `smoke` puts in place of a recipe's own: every stage runs, in seconds, and learns nothing of use.
SMOKE_ARGS = {"img_size": 64, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 2}
SMOKE = {
    "steps": 2,
    "batch_size": 8,
    "limit": 32,
    "workers": 0,
    "evaluate_every": 1,
    "compile": False,
    "precision": "float32",
}
SMOKE_CLASSIFIER = {**SMOKE, "val_limit": 16, "image_size": 64}
SMOKE_CAPTIONER = {**SMOKE, "width": 48, "layers": 1, "heads": 2, "vocab_size": 60}


class TableRow(BaseModel):
    """An encoder of the table and the budgets of its training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="what the table calls it")
    encoder: str = Field(description="architecture, any that `vlcap encoders` lists or a ViT of timm's")
    model_args: dict[str, Any] = Field({}, description="its own further arguments, over the shared ones")
    budgets: list[int] | None = Field(None, description="sides to draw one of per step, in both trainings")
    compare_at: list[int] | None = Field(None, description="budgets of the comparison; None: those of the training")
    pretrained: bool = Field(False, description="from timm's weights")
    train: bool = Field(True, description="false: no classification; the encoder is what its weights make it")


class Table3Recipe(BaseModel):
    """Everything that a table depends on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    image_size: int | None = Field(None, gt=0, description="of captioned photos, in pixels; None: as classified")
    split: str = Field("test", description="what the captioners are compared on")
    model_args: dict[str, Any] = Field({}, description="arguments that all encoders share: width, depth, patches")
    classifier: dict[str, Any] = Field({}, description="keys of a classifier recipe")
    captioner: dict[str, Any] = Field({}, description="keys of a captioner recipe")
    rounds: int = Field(15, gt=0, description="of timing")
    limit: int | None = Field(None, gt=1, description="no more photos compared on than this")
    rows: list[TableRow]
    ablations: list[TableRow] = Field([], description="further rows, such as Table 5's")

    @classmethod
    def load(cls, name: str, overrides: Sequence[str] = (), smoke: bool = False) -> Self:
        """A recipe by name (table3-NAME of `train/recipes`) or path, with `key=value` overrides; dots go into a part:
        `classifier.steps=500`.

        Raises:
            RecipeError: No such recipe, unknown key, a value that doesn't fit, or two rows of one name.
        """
        values = Recipe._read(name if name.endswith((".yaml", ".yml")) else f"table3-{name.removeprefix('table3-')}")
        if smoke:
            values |= {
                "image_size": None,
                "rounds": 1,
                "limit": 8,
                "model_args": {**values.get("model_args", {}), **SMOKE_ARGS},
                "classifier": {**values.get("classifier", {}), **SMOKE_CLASSIFIER},
                "captioner": {**values.get("captioner", {}), **SMOKE_CAPTIONER},
            }
            for part in ("rows", "ablations"):
                values[part] = [{**row, "pretrained": False} for row in values.get(part, [])]
        for override in overrides:
            key, equals, value = override.partition("=")
            if not equals:
                raise RecipeError(f"--set {override}: expected key=value")
            *parts, last = key.strip().split(".")
            place = values
            for part in parts:
                place = place.setdefault(part, {})
                if not isinstance(place, dict):
                    raise RecipeError(f"--set {override}: {part} has no parts")
            place[last] = yaml.safe_load(value)
        try:
            recipe = cls(**values)
            for row in recipe.all_rows:
                recipe.classifier_recipe(row), recipe.captioner_recipe(row, Path("encoder"))
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise RecipeError(f"recipe {name}: {problems}") from None
        folders = [slug(row.name) for row in recipe.all_rows]
        if twice := sorted({folder for folder in folders if folders.count(folder) > 1}):
            raise RecipeError(f"recipe {name}: two rows are called {twice[0]}")
        return recipe

    @property
    def all_rows(self) -> list[TableRow]:
        return [*self.rows, *self.ablations]

    def classifier_recipe(self, row: TableRow) -> ClassifierRecipe:
        return ClassifierRecipe(
            **{
                "seed": self.seed,
                **self.classifier,
                "encoder": row.encoder,
                "pretrained": row.pretrained,
                "model_args": {**self.model_args, **row.model_args},
                "budgets": row.budgets,
            }
        )

    def captioner_recipe(self, row: TableRow, encoder: Path) -> CaptionerRecipe:
        return CaptionerRecipe(**{"seed": self.seed, **self.captioner, "encoder": str(encoder), "budgets": row.budgets})


def train_table3(
    recipe: Table3Recipe,
    classes: str,
    captions: list[str],
    out: Path,
    track: Callable[[Iterable, int, str], Iterable] = lambda items, total, what: items,
) -> Comparison:
    """Trains every row and compares them all; goes on where it was stopped.

    Args:
        recipe: What is trained, and how.
        classes: Labelled photos, as `train_classifier` takes them.
        captions: Folders of captioned photos; the comparison is on the first one's.
        out: Folder of everything; its `stages.json` says what each stage took and reached.
        track: As for `compare`.

    Raises:
        TrainingError: A stage was begun with other settings, or can't go on; or this is one of several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError(
            "train table3 is for one process; torchrun can train its stages: train classifier or captioner with the "
            "recipe.yaml of a stage's folder, and that folder as --out"
        )
    split = read_captions(captions[0], recipe.split, limit=recipe.limit)
    out = out.absolute()  # a stage's recipe names its encoder's folder: the same one, however --out is spelt
    out.mkdir(parents=True, exist_ok=True)
    own(out, "table3", ("recipe.yaml", "stages.json", "comparison"))
    know_data(out, _data(recipe, classes, captions))
    contenders: list[Contender] = []
    for number, row in enumerate(recipe.all_rows, start=1):
        folder, title = out / slug(row.name), f"row {number} of {len(recipe.all_rows)}: {row.name}"
        if row.train:
            _stage(
                folder / "classifier",
                recipe.classifier_recipe(row),
                f"{title}, classification",
                lambda stage, to: train_classifier(cast(ClassifierRecipe, stage), [classes], to),
            )
        encoder = _encoder(recipe, row, folder)
        _stage(
            folder / "captioner",
            recipe.captioner_recipe(row, encoder),
            f"{title}, captioning",
            lambda stage, to: train_captioner(cast(CaptionerRecipe, stage), captions, to),
        )
        captioner = Captioner.from_pretrained(folder / "captioner" / "captioner")
        contenders.append(contender(row.name, captioner, row.compare_at or row.budgets))
    stages = {
        path.parent.relative_to(out).as_posix(): json.loads(path.read_text())
        for path in sorted(out.glob("*/*/stage.json"))
    }
    (out / "stages.json").write_text(json.dumps(stages, indent=2) + "\n", encoding="utf-8")
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    return compare(contenders, split, out / "comparison", seed=recipe.seed, rounds=recipe.rounds, track=track)


def _data(recipe: Table3Recipe, classes: str, captions: list[str]) -> list[Data]:
    """What all rows are trained on."""
    classifier = recipe.classifier_recipe(recipe.all_rows[0])
    captioned = [*captions, *([classes] if classifier.target == "words" else [])]
    sets = [read_captions(folder, split) for folder in captioned for split in ("train", "val")]
    found = [Data(each.split, each.name, len(each), each.identity()) for each in sets]
    if classifier.target == "label":
        if classifier.stream:
            stream = read_stream(classes, "train", classifier.classes)
            found.append(Data("train", classes, stream.images, stream.identity()))
        for split in ("val",) if classifier.stream else ("train", "val"):
            labelled = read_labelled(classes, split)
            found.append(Data(split, classes, len(labelled), labelled.identity()))
    return found


def _stage(out: Path, recipe: Recipe, title: str, run: Callable[[Recipe, Path], dict[str, float]]) -> None:
    """Runs a stage unless it is done; stage.json, written at its end, holds its recipe, figures and time."""
    done = out / "stage.json"
    # By value: a setting that came with a newer version has its default in an older run.
    if done.is_file() and type(recipe)(**json.loads(done.read_text())["recipe"]) == recipe:
        check_recipe(out, recipe)  # the encoder that it began from may have been trained further since
        return
    Console(file=sys.stderr).print(f"[bold]{title}[/bold], in {out}", highlight=False)
    run(recipe, out)  # of a run with other settings it says so
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


def _encoder(recipe: Table3Recipe, row: TableRow, folder: Path) -> Path:
    """The folder of the encoder that captions: as it was classified with, or taken to the captioned photos' size."""
    trained = folder / "classifier" / "encoder"
    if row.train and (not recipe.image_size or recipe.image_size == recipe.classifier.get("image_size")):
        return trained
    encoder = folder / "encoder"
    if (encoder / "config.json").is_file() and recipe.image_size not in (None, Encoder.load(encoder).pixels.size):
        raise TrainingError(f"{encoder} is for photos of another size than {recipe.image_size}: choose another --out")
    if not (encoder / "config.json").is_file():
        if row.train:
            made = Encoder.load(trained).without_heads()
        else:
            made = Encoder.create(row.encoder, pretrained=row.pretrained, **{**recipe.model_args, **row.model_args})
            made = made.set_budgets(row.budgets) if row.budgets else made
        if recipe.image_size and recipe.image_size != made.pixels.size:
            made.set_image_size(recipe.image_size)
        with written_whole(encoder) as new:
            made.save_pretrained(new)
    return encoder
