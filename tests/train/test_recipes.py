"""The shipped recipes: each states its command, and each runs with --smoke."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from app.cli import app
from tests.support import drawings
from train.captioner import CaptionerRecipe
from train.classifier import ClassifierRecipe
from train.decoder import DecoderRecipe
from train.recipe import RecipeError
from vlcap.model.encoder import Encoder, digest_weights

RECIPES = sorted(  # recipes of one run; test_study tests those of whole studies
    path.name.removesuffix(".yaml")
    for path in (files("train") / "recipes").iterdir()
    if not path.name.startswith(("table3-", "study-"))
)

CHAIN = ("hybrid-classes", "hybrid-words", "caption-text", "captioner-hybrid", "self-critical-hybrid")


def text(name):
    return (files("train") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def command(name):
    """The command in a recipe's first lines, with its trainer: classifier, captioner or decoder."""
    return re.search(r"#   .*train (classifier|captioner|decoder) --recipe (\S+) ", text(name))


@pytest.mark.parametrize("name", RECIPES)
def test_says_its_command_and_is_one(name):
    found = command(name)
    assert found, f"{name} doesn't start with its command"
    assert found[2] == name
    kind = {"classifier": ClassifierRecipe, "captioner": CaptionerRecipe, "decoder": DecoderRecipe}[found[1]]
    recipe = kind.load(name)
    assert recipe.model_fields_set == yaml.safe_load(text(name)).keys()
    for field in ("encoder", "decoder", "start_from"):  # from another recipe's run, whose file says so
        built_on = Path(str(getattr(recipe, field, "")))
        if built_on.parts[:1] == ("runs",) and built_on.parts[1] != "coco":
            assert any(f"--out runs/{built_on.parts[1]}" in text(other) for other in RECIPES)


@pytest.fixture(scope="session")
def sentences(tmp_path_factory):
    """Captions that no photo of the drawn data set has."""
    path = tmp_path_factory.mktemp("sentences") / "captions.txt"
    path.write_text("\n".join(f"{text.rstrip(' .')} again" for text in drawings.captions(60)), encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name not in CHAIN])
def test_smoke(name, class_folder, captioned_folder, sentences, tmp_path, quick_curves):
    kind = command(name)[1]
    words = "target: words" in text(name)
    data = sentences if kind == "decoder" else class_folder if kind == "classifier" and not words else captioned_folder
    held_out = ["--hold-out", str(captioned_folder)] if kind == "decoder" else []
    ran = CliRunner().invoke(
        app,
        ["train", kind, "--recipe", name, "--data", str(data), *held_out, "--out", str(tmp_path / name), "--smoke"],
        catch_exceptions=False,
    )
    assert ran.exit_code == 0, ran.output
    check_smoke(kind, tmp_path / name)


def check_smoke(kind, folder):
    """What a smoke run leaves behind."""
    out = folder / "smoke-1" / "run"
    assert [path.name for path in folder.iterdir()] == ["smoke-1"]  # the real run's folder is untouched
    assert (out / {"classifier": "encoder"}.get(kind, kind) / "model.safetensors").is_file()
    assert (out / "curves.png").is_file()
    assert list((out / "tensorboard").iterdir())


@pytest.mark.slow
def test_a_chain_of_smoke_runs_is_one(class_folder, captioned_folder, sentences, tmp_path, monkeypatch):
    """The commands of the bundled captioner's card, one after the other: trunk and frozen encoder stay unchanged."""
    from vlcap import Captioner

    monkeypatch.chdir(tmp_path)
    data = dict(
        zip(CHAIN, (class_folder, captioned_folder, sentences, captioned_folder, captioned_folder), strict=True)
    )
    for name in CHAIN:
        kind = command(name)[1]
        held_out = ["--hold-out", str(captioned_folder)] if kind == "decoder" else []
        arguments = ["train", kind, "--recipe", name, "--data", str(data[name]), *held_out, "--out", f"runs/{name}"]
        assert CliRunner().invoke(app, [*arguments, "--smoke"], catch_exceptions=False).exit_code == 0
        check_smoke(kind, tmp_path / "runs" / name)
    runs = {path.name: path / "smoke-1" / "run" for path in (tmp_path / "runs").iterdir()}
    first = CaptionerRecipe.load(str(runs["captioner-hybrid"] / "recipe.yaml"))
    assert first.encoder == "runs/hybrid-words/smoke-1/run/encoder"
    assert first.decoder == "runs/caption-text/smoke-1/run/decoder"
    second = CaptionerRecipe.load(str(runs["self-critical-hybrid"] / "recipe.yaml"))
    assert second.start_from == "runs/captioner-hybrid/smoke-1/run/captioner" and second.encoder is None
    words = Encoder.load(runs["hybrid-words"] / "encoder")
    assert words.config.architecture == "lookupvit_hybrid_test_64"
    assert digest_weights(words.model.trunk) == digest_weights(
        Encoder.load(runs["hybrid-classes"] / "encoder").model.trunk
    )
    last = Captioner.from_pretrained(runs["self-critical-hybrid"] / "captioner")
    assert last.budgets == [2, 3]
    assert digest_weights(last.model.encoder) == digest_weights(words.without_heads())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lr=fast"], "lr: Input should be a valid number"),
        (["learning_rate=1"], "learning_rate: Extra inputs"),
        (["lr"], "expected key=value"),
        (["epochs=0"], "epochs: Input should be greater than 0"),
    ],
)
def test_bad_settings_are_named(overrides, message):
    with pytest.raises(RecipeError, match=message):
        ClassifierRecipe.load(None, overrides)


def test_unknown_recipe_lists_those_there_are():
    with pytest.raises(RecipeError, match="tiny-imagenet"):
        ClassifierRecipe.load("no-such-recipe")
