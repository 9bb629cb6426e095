"""The recipes that come along: each says what it must, and each runs, made small by --smoke."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from app.cli import app
from train.captioner import CaptionerRecipe
from train.classifier import ClassifierRecipe
from train.recipe import RecipeError

RECIPES = sorted(  # of one run; those of a whole table are test_table3's
    path.name.removesuffix(".yaml") for path in (files("train") / "recipes").iterdir()
    if not path.name.startswith("table3-"))


def text(name):
    return (files("train") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def command(name):
    """classifier or captioner, out of the recipe's own first lines."""
    return re.search(r"#   .*train (classifier|captioner) --recipe (\S+) ", text(name))


@pytest.mark.parametrize("name", RECIPES)
def test_says_its_command_and_is_one(name):
    found = command(name)
    assert found, f"{name} doesn't begin with its command"
    assert found[2] == name
    kind = {"classifier": ClassifierRecipe, "captioner": CaptionerRecipe}[found[1]]
    recipe = kind.load(name)
    assert recipe.model_fields_set == yaml.safe_load(text(name)).keys()
    if Path(str(getattr(recipe, "encoder", ""))).parts[:1] == ("runs",):
        assert any(f"--out runs/{Path(recipe.encoder).parts[1]}" in text(other) for other in RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_smoke(name, class_folder, captioned_folder, tmp_path):
    kind = command(name)[1]
    words = "target: words" in text(name)
    data = captioned_folder if kind == "captioner" or words else class_folder
    ran = CliRunner().invoke(app, [
        "train", kind, "--recipe", name, "--data", str(data), "--out", str(tmp_path / name), "--smoke"],
        catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    out = tmp_path / name / "smoke-1" / "run"
    assert [path.name for path in (tmp_path / name).iterdir()] == ["smoke-1"]  # the real run's folder is left alone
    assert (out / ("captioner" if kind == "captioner" else "encoder") / "model.safetensors").is_file()
    assert (out / "curves.png").is_file()
    assert list((out / "tensorboard").iterdir())


def test_a_chain_of_smoke_runs_is_one(class_folder, captioned_folder, tmp_path, monkeypatch):
    """What the bundled captioner's card says, from photos to captions."""
    from vlcap import Captioner

    monkeypatch.chdir(tmp_path)
    for kind, name, data in (
            ("classifier", "tiny-imagenet", class_folder), ("classifier", "caption-words", captioned_folder),
            ("classifier", "caption-words-96", captioned_folder), ("captioner", "captioner-mini", captioned_folder)):
        arguments = ["train", kind, "--recipe", name, "--data", str(data), "--out", f"runs/{name}", "--smoke"]
        assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    recipe = CaptionerRecipe.load("runs/captioner-mini/smoke-1/run/recipe.yaml")
    assert recipe.encoder == "runs/caption-words-96/smoke-1/run/encoder"
    for name, before in (("caption-words-96", "caption-words"), ("caption-words", "tiny-imagenet")):
        recipe = ClassifierRecipe.load(f"runs/{name}/smoke-1/run/recipe.yaml")
        assert recipe.encoder == f"runs/{before}/smoke-1/run/encoder"
    assert Captioner.from_pretrained("runs/captioner-mini/smoke-1/run/captioner").budgets == [2, 3]


@pytest.mark.parametrize(("overrides", "message"), [
    (["lr=fast"], "lr: Input should be a valid number"),
    (["learning_rate=1"], "learning_rate: Extra inputs"),
    (["lr"], "expected key=value"),
    (["epochs=0"], "epochs: Input should be greater than 0"),
])
def test_bad_settings_are_named(overrides, message):
    with pytest.raises(RecipeError, match=message):
        ClassifierRecipe.load(None, overrides)


def test_unknown_recipe_lists_those_there_are():
    with pytest.raises(RecipeError, match="tiny-imagenet"):
        ClassifierRecipe.load("no-such-recipe")
