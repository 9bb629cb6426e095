"""Recipes: all settings of a run in one validated object, from a YAML file and `--set key=value`."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlcap.errors import VlcapError


class RecipeError(VlcapError, ValueError):
    """A recipe that can't be used: which one, what is wrong with it, what is allowed."""


def apply_settings(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Sets values by `key=value` in place, as `--set` gives them; returns them.

    Args:
        values: A recipe's values.
        settings: Each `key=value`, the value in YAML. Dots lead into a part: `classifier.steps=500`.

    Raises:
        RecipeError: No equals sign, a value that is not YAML, or a key below a value that has no parts.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise RecipeError(f"--set {setting:.200}: expected key=value")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise RecipeError(f"--set {setting:.200}: its value is not YAML") from None
        *parts, last = key.strip().split(".")
        place = values
        for part in parts:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise RecipeError(f"--set {setting:.200}: {part} has no parts")
        place[last] = value
    return values


def list_problems(error: ValidationError) -> str:
    """The first three problems of a validation in one line."""
    found = [f"{'.'.join(map(str, e['loc'])):.60}: {e['msg']:.200}" for e in error.errors()]
    return " ".join("; ".join(found[:3] + (["..."] if len(found) > 3 else [])).split())


class Recipe(BaseModel):
    """Settings that all trainers share. Fields without a unit count steps or images."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    writes: ClassVar[tuple[str, ...]] = ()  # outputs that a run replaces as a whole

    seed: int = Field(0, description="random seed of weights, order and augmentation")
    cache_seed: int | None = Field(
        None, description="random seed of cached augmented views, to share them between seeds; None: the run's seed"
    )
    epochs: float = Field(10, gt=0, description="passes over the training images")
    steps: int | None = Field(None, gt=0, description="length in steps, instead of epochs")
    batch_size: int = Field(256, gt=0, description="images per step, over all processes")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="learning rate after the warm-up")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    min_lr: float = Field(0.0, ge=0, description="learning rate at the end of the schedule")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps with a linear warm-up")
    opt: str = Field("adamw", description="any of timm's optimizers")
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.1, ge=0, description="decoupled; applies to matrices only")
    layer_decay: float | None = Field(None, gt=0, le=1, description="learning rate factor per block below the head")
    clip_grad: float | None = Field(1.0, gt=0, description="maximum norm of all gradients together")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="decay of the weight average to evaluate and save; 0: none")
    budgets: list[int] | None = Field(None, description="grid sides, one drawn per step; None: the encoder's default")
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = Field(False, description="use torch.compile, worth it on a GPU")
    workers: int = Field(2, ge=0, description="number of data loading processes")
    evaluate_every: float = Field(1, gt=0, description="epochs between evaluations")
    save_every: int = Field(500, gt=0, description="steps between checkpoints")
    limit: int | None = Field(None, gt=0, description="maximum number of images of each split")

    @classmethod
    def load(cls, name: str | None, overrides: Sequence[str] = ()) -> Self:
        """Loads a recipe by the name of a file in `train/recipes` or by path, with `--set` overrides.

        Raises:
            RecipeError: The recipe or a key is unknown, or a value is invalid.
        """
        values = apply_settings({} if name is None else cls._read(name), overrides)
        try:
            return cls(**values)
        except ValidationError as error:
            raise RecipeError(
                f"recipe {name or '(defaults)'}: {list_problems(error)}. Known keys: {', '.join(cls.model_fields)}"
            ) from None

    @property
    def view_seed(self) -> int:
        """Random seed of the views that are cached."""
        return self.seed if self.cache_seed is None else self.cache_seed

    @staticmethod
    def _read(name: str) -> dict:
        shipped = files("train") / "recipes"
        path = Path(name) if name.endswith((".yaml", ".yml")) else shipped / f"{name}.yaml"
        if not path.is_file():
            known = sorted(p.name.removesuffix(".yaml") for p in shipped.iterdir() if p.name.endswith(".yaml"))
            raise RecipeError(f"no recipe {name!r}: give a .yaml file or one of {', '.join(known)}")
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise RecipeError(f"recipe {name}: cannot be read ({error.strerror})") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # not YAML, not UTF-8, endless nesting
            raise RecipeError(f"recipe {name}: not YAML: {' '.join(str(error).split()):.300}") from None
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise RecipeError(f"recipe {name}: expected key: value lines")
        return values

    def total_steps(self, images: int | None) -> int:
        """Length of the run in steps; `images` may be None if `steps` is set."""
        return self.steps or max(1, round(self.epochs * (images or 0) / self.batch_size))

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
