"""Recipes of studies: which rows are trained, what they share, what they are compared at.

A study recipe may build on another (`base: table3-small`), and any of its parts may build on the recipe of a single run
(`recipe: captioner-hybrid`). Settings nearer to the row win: base, then the study's part, then the row's part.
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlcap.evaluation.compare import slug
from vlcap.model.timm_encoder import Reduce, names_timm

from .captioner import CaptionerRecipe
from .classifier import ClassifierRecipe
from .recipe import Recipe, RecipeError, apply_settings, list_problems

STAGE = "classifier"  # the name of the only stage of classification, where a recipe names none
ENCODER, CAPTIONER = "encoder", "captioner"  # folders of a row besides its stages of classification

# What `smoke` puts in place of a recipe's own: every stage runs in seconds and learns nothing of use. All encoders get
# a grid of 16 x 16, so that the recipe's budgets fit.
SMOKE_ENCODER = "lookupvit_mini_patch8_96"  # in place of a given folder
SMOKE_ARGS = {"img_size": 64, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 2}
SMOKE_TRUNK = {"trunk": "test_efficientnet", "trunk_indices": [1, 2], "patch_size": None}
SMOKE_POOLED = {**SMOKE_TRUNK, **dict.fromkeys(SMOKE_ARGS.keys() - {"img_size"})}
SMOKE = {
    "steps": 2,
    "batch_size": 8,
    "limit": 32,
    "workers": 0,
    "evaluate_every": 1,
    "compile": False,
    "precision": "float32",
}
SMOKE_CLASSIFIER = {
    **SMOKE,
    "val_limit": 16,
    "image_size": 64,
    "words": 20,
    "init_from": None,
    "teacher": None,
    "feature_weight": 0.0,
    "cache_views": 0,  # without a teacher there is nothing to keep
}
SMOKE_CAPTIONER = {**SMOKE, "width": 48, "layers": 1, "heads": 2, "vocab_size": 60, "decoder": None}


class StudyRow(BaseModel):
    """One row of a study: an encoder, its training, and the captioner on top."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    name: str = Field(description="name of the row in every table")
    about: str = Field("", description="what the row varies, for the table of stages")
    encoder: str | None = Field(
        None, description="architecture, or folder of a trained encoder; None: the study's encoder"
    )
    model: str | None = Field(
        None, description="folder of a captioner that is compared as it is, or `bundled`; nothing is trained"
    )
    model_args: dict[str, Any] = Field(
        {},
        description="arguments of the encoder: they override the study's, and null removes one. The weights of a "
        "given encoder folder are kept.",
    )
    pretrained: bool = Field(False, description="start a new encoder from timm's weights")
    reduce: Reduce | None = Field(
        None, description="how the tokens of a timm: encoder become few; lookup needs a stage of classification"
    )
    init_from: str | None = Field(None, description="pretrained classifier that a new encoder starts from")
    train: bool | list[str] = Field(True, description="stages of classification to run; false: none")
    budgets: list[int] | None = Field(None, description="sides to draw one of per step, in every training")
    compare_at: list[int] | None = Field(None, description="budgets of the comparison; None: those of the training")
    image_sizes: list[int] = Field(
        [], description="sides of the photos in pixels to compare at; none: that of its training"
    )
    classifier: dict[str, Any] = Field({}, description="settings of all of its stages of classification")
    stages: dict[str, dict[str, Any]] = Field({}, description="settings of single stages of classification")
    captioner: dict[str, Any] = Field({}, description="settings of its captioner")
    generation: dict[str, Any] = Field({}, description="decoding settings of the comparison, by Hugging Face's names")
    prior_steps: int = Field(0, ge=0, description="steps behind a given encoder, for the plot of scaling")

    def changes(self) -> dict[str, Any]:
        """The settings that set this row apart, dotted: what it has of its own besides its name and its encoder."""
        parts = {CAPTIONER: self.captioner, STAGE: self.classifier, **self.stages}
        found = {f"{part}.{key}": value for part, own in parts.items() for key, value in own.items()}
        found |= {f"model_args.{key}": value for key, value in self.model_args.items()}
        own = {"reduce": self.reduce, "budgets": self.budgets, "train": None if self.train is True else self.train}
        return found | {key: value for key, value in own.items() if value is not None} | self.generation


class StudyRecipe(BaseModel):
    """Everything that a study depends on."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    seed: int = 0
    split: str = Field("test", description="split that the captioners are compared on")
    limit: int | None = Field(None, gt=1, description="most photos to compare on, the split's first")
    every_set: bool = Field(False, description="compare on every caption set; false: on the first one")
    rounds: int = Field(15, gt=0, description="rounds of timing")
    image_size: int | None = Field(None, gt=0, description="side of captioned photos in pixels; None: as classified")
    encoder: str | None = Field(None, description="encoder of the rows that name none")
    model: str | None = Field(None, description="captioner of the rows that name neither a captioner nor an encoder")
    model_args: dict[str, Any] = Field({}, description="arguments that all new encoders share")
    compare_at: list[int] | None = Field(None, description="budgets of the comparison for rows without budgets")
    classifier: dict[str, Any] = Field({}, description="settings of all stages of classification")
    stages: dict[str, dict[str, Any]] = Field(
        {STAGE: {}}, description="stages of classification in their order, each with its settings"
    )
    captioner: dict[str, Any] = Field({}, description="settings of all captioners")
    rows: list[StudyRow]
    ablations: list[StudyRow] = Field([], description="further rows, such as Table 5's")
    seeds: dict[str, list[int]] = Field(
        {}, description="rows that are trained again with other seeds, by name: {LookupViT: [1, 2]}"
    )

    @classmethod
    def load(cls, name: str, overrides: Sequence[str] = (), smoke: bool = False, prefix: str = "study") -> Self:
        """Loads a study recipe.

        Args:
            name: Name of a recipe in `train/recipes`, with or without `prefix` before it, or path of a .yaml file.
            overrides: `key=value` settings; dots lead into a part: `stages.words.steps=500`.
            smoke: Whether to shrink it to seconds.
            prefix: First part of the recipe's file name: study or table3.

        Raises:
            RecipeError: No such recipe, unknown key, a value that doesn't fit, or rows that can't be told apart.
        """
        if not name.endswith((".yaml", ".yml")) and not (files("train") / "recipes" / f"{name}.yaml").is_file():
            name = f"{prefix}-{name.removeprefix(f'{prefix}-')}"
        values = _read_with_base(name)
        try:
            cls(**values)  # before it is shrunk, which expects mappings and lists where they belong
            values = apply_settings(_shrink(values) if smoke else values, overrides)
            recipe = cls(**values)
            recipe._check_names()
            recipe._check_settings()
        except ValidationError as error:
            raise RecipeError(f"recipe {name}: {list_problems(error)}") from None
        return recipe

    @property
    def all_rows(self) -> list[StudyRow]:
        """Every row, each with its other seeds after it."""
        return [each for row in (*self.rows, *self.ablations) for each in (row, *self._again(row))]

    def _again(self, row: StudyRow) -> list[StudyRow]:
        """A row with the other seeds that `seeds` names for it."""
        return [
            row.model_copy(
                update={
                    "name": f"{row.name}, seed {seed}",
                    "about": ", ".join(filter(None, [row.about, f"seed {seed}"])),
                    "classifier": {**row.classifier, "seed": seed},
                    "captioner": {**row.captioner, "seed": seed},
                }
            )
            for seed in self.seeds.get(row.name, [])
        ]

    def chosen(self, names: Sequence[str] | None) -> list[StudyRow]:
        """The rows of these names, in the recipe's order; None for all.

        Raises:
            RecipeError: No row has such a name.
        """
        known = {row.name for row in self.all_rows}
        if unknown := [name for name in names or [] if name not in known]:
            raise RecipeError(f"no row is called {unknown[0]!r}: there are {', '.join(sorted(known))}")
        return [row for row in self.all_rows if not names or row.name in names]

    def encoder_of(self, row: StudyRow) -> str | None:
        """Architecture or folder that a row starts from; None for a row that compares a given captioner."""
        return None if row.model else row.encoder or self.encoder

    def model_of(self, row: StudyRow) -> str | None:
        """The given captioner that a row compares; None for a row that trains one."""
        return row.model or (None if self.encoder_of(row) else self.model)

    def model_args_of(self, row: StudyRow) -> dict[str, Any]:
        """Arguments of a row's new encoder."""
        return {key: value for key, value in (self.model_args | row.model_args).items() if value is not None}

    def stages_of(self, row: StudyRow) -> list[str]:
        """Names of the stages of classification that a row runs, in their order."""
        if self.model_of(row):
            return []
        wanted = self.stages if row.train is True else row.train or []
        return [name for name in self.stages if name in wanted]

    def folders_of(self, row: StudyRow) -> list[str]:
        """Names of the run folders of a row, its captioner's last."""
        parts = [*self.stages_of(row), *([] if self.model_of(row) else [CAPTIONER])]
        return [f"{slug(row.name)}-{part}" for part in parts]

    def classifier_recipe(self, row: StudyRow, stage: str = STAGE, after: Path | None = None) -> ClassifierRecipe:
        """The recipe of a stage of classification.

        Args:
            row: Row that the stage belongs to.
            stage: Name of the stage.
            after: Encoder folder of the stage before; None for the first stage.
        """
        settings = self._settings(
            ClassifierRecipe, self.classifier, self.stages.get(stage, {}), row.classifier, row.stages.get(stage, {})
        )
        encoder = self.encoder_of(row)
        new = after is None and encoder is not None and not names_folder(encoder)
        settings |= {
            "encoder": str(after or encoder),
            "pretrained": new and row.pretrained,
            "reduce": row.reduce if new else None,
            "model_args": self.model_args_of(row) if new else {},
            "init_from": (row.init_from or settings.get("init_from")) if after is None else None,
            "budgets": row.budgets or settings.get("budgets"),
        }
        return ClassifierRecipe(**settings)

    def captioner_recipe(self, row: StudyRow, encoder: Path | str) -> CaptionerRecipe:
        """The recipe of a row's captioner on a trained encoder's folder."""
        settings = self._settings(CaptionerRecipe, self.captioner, row.captioner)
        settings |= {"encoder": str(encoder), "budgets": row.budgets or settings.get("budgets")}
        return CaptionerRecipe(**settings)

    def compare_at_of(self, row: StudyRow) -> list[int] | None:
        return row.compare_at or row.budgets or self.compare_at

    def comparisons(self, captions: Sequence[str]) -> dict[str, str]:
        """Result folders of the study, by name, and the caption set that each compares on."""
        first, *others = captions
        found = {"comparison": first}
        for other in others if self.every_set else []:
            name = f"comparison-{slug(Path(other).name)}"
            found[name if name not in found else f"{name}-{len(found) + 1}"] = other
        return found

    def _settings(self, kind: type[Recipe], *layers: dict[str, Any]) -> dict[str, Any]:
        """Joins layers of settings, the last one strongest, over the recipe that one of them may name."""
        own = {"seed": self.seed} | {key: value for layer in layers for key, value in layer.items()}
        base = own.pop("recipe", None)
        return (kind._read(base) if base else {}) | own

    def _check_names(self) -> None:
        """Whether every row has a name and run folders of its own.

        Raises:
            RecipeError: Two rows, or two folders of one row, would share a name.
        """
        slugs = [slug(row.name) for row in self.all_rows]
        if twice := sorted({each for each in slugs if slugs.count(each) > 1}):
            raise RecipeError(f"two rows are called {twice[0]}")
        if reserved := {ENCODER, CAPTIONER} & self.stages.keys():
            raise RecipeError(f"a stage of classification may not be called {min(reserved)}")
        folders = [f"{each}-{part}" for each in slugs for part in (*self.stages, ENCODER, CAPTIONER)]
        if twice := sorted({folder for folder in folders if folders.count(folder) > 1}):
            raise RecipeError(f"two stages would share the folder {twice[0]}: rename a row or a stage")

    def _check_settings(self) -> None:
        """Whether every row makes recipes that work.

        Raises:
            RecipeError: A row without an encoder, or one that names an unknown stage.
            ValidationError: A setting of a stage that doesn't fit.
        """
        if unknown := [name for name in self.seeds if name not in {row.name for row in (*self.rows, *self.ablations)}]:
            raise RecipeError(f"seeds: no row is called {unknown[0]!r}")
        for row in self.all_rows:
            encoder, stages = self.encoder_of(row), self.stages_of(row)
            if row.name in self.seeds and self.model_of(row):
                raise RecipeError(f"seeds: row {row.name} compares a given captioner, and trains nothing")
            if row.reduce and not names_timm(encoder):
                raise RecipeError(f"row {row.name}: reduce is for an encoder timm:NAME, not for {encoder}")
            if row.reduce == "lookup" and not stages:
                raise RecipeError(f"row {row.name}: the blocks of reduce=lookup need a stage of classification")
            if not encoder and not self.model_of(row):
                raise RecipeError(f"row {row.name} has no encoder: name one in the row or in the study")
            named = [*row.stages, *(row.train if isinstance(row.train, list) else [])]
            if unknown := [name for name in named if name not in self.stages]:
                known = ", ".join(self.stages)
                raise RecipeError(f"row {row.name}: no stage is called {unknown[0]}: there are {known}")
            if encoder and names_folder(encoder) and stages and row.model_args:
                raise RecipeError(f"row {row.name}: model_args can't change a given encoder that is trained further")
            for number, stage in enumerate(stages):
                self.classifier_recipe(row, stage, Path("encoder") if number else None)
            if encoder:
                self.captioner_recipe(row, "encoder")


def names_folder(encoder: str) -> bool:
    """Whether an encoder is given as a folder of a trained one, and not as an architecture."""
    return Path(encoder).is_dir() or ("/" in encoder and ":" not in encoder)


def _is_outside(encoder: str) -> bool:
    """Whether an encoder comes with weights, which a smoke run does not need."""
    return names_folder(encoder) or names_timm(encoder)


def _read_with_base(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Reads a study recipe; where it names a base, that one's values with its own over them, part by part."""
    values = Recipe._read(name)
    base = values.pop("base", None)
    if base is None:
        return values
    if base in (*above, name):
        raise RecipeError(f"recipe {name}: it is its own base")
    return _merge(_read_with_base(str(base), (*above, name)), values)


def _merge(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Two nested mappings as one; `own` wins, lists are replaced."""
    both = {
        key: _merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in own.items()
    }
    return base | both


def _shrink(values: dict[str, Any]) -> dict[str, Any]:
    """A recipe's values made small: tiny encoders, two steps, no weights fetched, no folder needed."""
    parts = {"classifier": SMOKE_CLASSIFIER, "captioner": SMOKE_CAPTIONER}
    small = values | {name: {**(values.get(name) or {}), **own} for name, own in parts.items()}
    small |= {"image_size": None, "rounds": 1, "limit": 8, "model_args": {**values.get("model_args", {}), **SMOKE_ARGS}}
    if "stages" in values:
        small["stages"] = {
            name: _without(settings or {}, SMOKE_CLASSIFIER) for name, settings in values["stages"].items()
        }
    if values.get("encoder"):
        small["encoder"] = SMOKE_ENCODER if _is_outside(values["encoder"]) else values["encoder"]
    if values.get("model"):
        small["model"] = "bundled"
    for part in ("rows", "ablations"):
        small[part] = [_shrink_row(row, small.get("encoder")) for row in values.get(part) or []]
    return small


def _shrink_row(row: dict[str, Any], shared: str | None) -> dict[str, Any]:
    encoder = row.get("encoder")
    if encoder:
        encoder = SMOKE_ENCODER if _is_outside(encoder) else encoder
    name = encoder or shared or ""
    trunk = SMOKE_TRUNK if "_hybrid_" in name else SMOKE_POOLED if name.startswith("pooled_") else {}
    small = row | {"encoder": encoder, "pretrained": False, "init_from": None, "reduce": None}
    if row.get("image_sizes"):
        small["image_sizes"] = [64, 96]
    small["model_args"] = (row.get("model_args") or {}) | trunk
    small["classifier"] = _without(row.get("classifier") or {}, SMOKE_CLASSIFIER)
    small["captioner"] = _without(row.get("captioner") or {}, SMOKE_CAPTIONER)
    small["stages"] = {
        name: _without(settings or {}, SMOKE_CLASSIFIER) for name, settings in (row.get("stages") or {}).items()
    }
    return small | ({"model": "bundled"} if row.get("model") else {})


def _without(settings: dict[str, Any], smoked: dict[str, Any]) -> dict[str, Any]:
    """Settings that a smoke run leaves as they are."""
    return {key: value for key, value in settings.items() if key not in smoked}
