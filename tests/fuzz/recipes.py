"""Recipes: YAML with values of wrong types, anchors that multiply, damage."""

import random
from importlib.resources import files
from pathlib import Path

import yaml

from train.captioner import CaptionerRecipe

from . import mutate

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
ODD = (
    BOMB,
    BOMB + "lr: *a39\n",
    "[" * 5000,
    "{a: " * 5000,
    "!!python/object/apply:os.system [ls]",
    "lr: !!python/name:os.system",
    "? [a]\n: b",
    "2: 3",
    "lr: 1e999",
    "- a",
)


def make(rng: random.Random, folder: Path) -> Path:
    path = folder / "input.yaml"
    text = (files("train") / "recipes" / "captioner-mini.yaml").read_text(encoding="utf-8")
    match rng.randrange(6):
        case 0:
            data = mutate.bytes_of(rng, text.encode())
        case 1:
            data = rng.choice(ODD).encode()
        case _:
            data = yaml.safe_dump(mutate.json_of(rng, yaml.safe_load(text)), allow_unicode=True).encode(
                "utf-8", errors="replace"
            )
    path.write_bytes(data)
    return path


def read(path: Path) -> None:
    CaptionerRecipe.load(str(path)).to_yaml()
