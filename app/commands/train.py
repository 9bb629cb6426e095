"""`vlcap train`: classifiers, text decoders and captioners."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from app.loading import hide_loading_bars
from app.options import Budgets, Override, RecipeName, RunFolder, Smoke, TrainData
from app.printing import say

train = typer.Typer(
    no_args_is_help=True, help="Train a classifier (the encoder), a text decoder, or a captioner made of both."
)


@train.command()
def classifier(
    data: TrainData,
    out: RunFolder,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Name of an architecture, folder of a trained encoder, or a pretrained model: timm:NAME, or "
            "timm:FOLDER with timm's config.json and model.safetensors."
        ),
    ] = None,
    reduce: Annotated[
        str | None,
        typer.Option(help="lookup: train LookupViT blocks over a timm: encoder, which stays frozen."),
    ] = None,
    budgets: Budgets = None,
    recipe: RecipeName = None,
    set_: Override = None,
    init_from: Annotated[
        str | None,
        typer.Option(help="Pretrained classifier to start from: a timm name, local-dir:FOLDER or package:NAME."),
    ] = None,
    smoke: Smoke = False,
) -> None:
    """Train an encoder to classify. OUT/encoder is what `vlcap train captioner --encoder` takes."""
    from train.classifier import ClassifierRecipe, train_classifier

    overrides = [*(set_ or []), *_short(encoder=encoder, reduce=reduce, budgets=budgets, init_from=init_from)]
    train_classifier(*_prepare(ClassifierRecipe, recipe, overrides, data, out, smoke))


@train.command()
def decoder(
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            help="Captions: a COCO caption file, a .txt file with one caption per line (either also as .gz), or a "
            "folder of captioned photos; repeat to join several.",
        ),
    ],
    out: RunFolder,
    hold_out: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of captioned photos. Sentences of its val and test splits are not learned; its val split "
            "evaluates the run. Repeat for several."
        ),
    ] = None,
    recipe: RecipeName = None,
    set_: Override = None,
    smoke: Smoke = False,
) -> None:
    """Train a decoder on captions without photos. OUT/decoder is what `train captioner --set decoder=` starts from."""
    from train.decoder import DecoderRecipe, train_decoder

    overrides = [*(set_ or []), *([f"hold_out={json.dumps(hold_out)}"] if hold_out else [])]
    train_decoder(*_prepare(DecoderRecipe, recipe, overrides, data, out, smoke))


@train.command()
def captioner(
    data: TrainData,
    out: RunFolder,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="The frozen encoder. Folder of a trained one: RUN/encoder. Or a pretrained one: timm:NAME, whose "
            "weights timm fetches, or timm:FOLDER with timm's config.json and model.safetensors."
        ),
    ] = None,
    decoder: Annotated[
        str | None,
        typer.Option(
            help="Decoder to start from: random, a folder that train decoder wrote, or a pretrained GPT-2: gpt2, "
            "distilgpt2, another id of the Hugging Face hub, or a folder."
        ),
    ] = None,
    reduce: Annotated[
        str | None,
        typer.Option(
            help="How the tokens of a timm: encoder become few: pool (any model), tome or evit (ViTs). lookup: train "
            "its blocks first, with vlcap train classifier --reduce lookup. Default: all of its tokens."
        ),
    ] = None,
    budgets: Budgets = None,
    recipe: RecipeName = None,
    set_: Override = None,
    smoke: Smoke = False,
) -> None:
    """Train a decoder on a frozen encoder's tokens. OUT/captioner is what `vlcap caption --model` takes."""
    from train.captioner import CaptionerRecipe, train_captioner

    short = _short(encoder=encoder, decoder=decoder, reduce=reduce, budgets=budgets)
    overrides = [*(set_ or []), *short]
    train_captioner(*_prepare(CaptionerRecipe, recipe, overrides, data, out, smoke))


def _short(budgets: str | None, **options: str | None) -> list[str]:
    """The settings that options are short forms of; `budgets` is a list with commas."""
    listed = [] if budgets is None else [f"budgets=[{budgets}]"]
    return listed + [f"{name}={json.dumps(value)}" for name, value in options.items() if value is not None]


def load_recipe(kind: Any, name: str | None, overrides: list[str], **options: Any) -> Any:
    """Loads a recipe; one that can't be used is a usage error."""
    from train.recipe import RecipeError

    try:
        return kind.load(name, overrides, **options)
    except RecipeError as error:
        raise typer.BadParameter(str(error)) from error


def _prepare(kind: Any, name: str | None, overrides: list[str], data: list[str], out: Path, small: bool) -> tuple:
    """The arguments of a trainer: recipe, data and run folder, those of a smoke run if it is to be `small`."""
    from train.smoke import smoke
    from vlcap.processes import connect

    hide_loading_bars()
    recipe = load_recipe(kind, name, overrides)
    if small:
        recipe, out = smoke(recipe, out)
        if connect():  # of several processes, one speaks
            say(f"smoke run in {out.parent}, which may be deleted afterwards")
    return recipe, data, out
