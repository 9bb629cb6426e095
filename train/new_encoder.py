"""The encoder that a recipe names: a trained one's folder, or anyone's (`timm:NAME`, `timm:FOLDER`) with `reduce`."""

from typing import Any

from vlcap.model.encoder import Encoder
from vlcap.model.timm_encoder import make_encoder, names_timm

from .run_folder import TrainingError

DECODER = ("width", "layers", "heads", "dropout", "max_length", "vocab_size")  # settings of a new decoder


def check_choice(recipe: Any) -> None:
    """Checks that a captioner's recipe names an encoder that can be had without training.

    Args:
        recipe: A `CaptionerRecipe`.

    Raises:
        TrainingError: It names none or two, or one whose blocks have to be trained first.
    """
    if (recipe.encoder is None) == (recipe.start_from is None):
        raise TrainingError(
            "no encoder given: use --encoder RUN/encoder (written by train classifier), --encoder timm:NAME for a "
            "pretrained one, or start_from=CAPTIONER"
        )
    if recipe.start_from and (recipe.reduce or recipe.image_size):
        raise TrainingError("start_from keeps its captioner's encoder as it is: leave out reduce and image_size")
    if recipe.start_from:
        fields = type(recipe).model_fields
        if changed := [name for name in DECODER if getattr(recipe, name) != fields[name].default]:
            raise TrainingError(f"start_from keeps its captioner's decoder as it is: leave out {', '.join(changed)}")
    if names_timm(recipe.encoder) and recipe.reduce == "lookup":
        raise TrainingError(
            "the blocks of --reduce lookup have to be trained first: vlcap train classifier --encoder "
            f"{recipe.encoder} --reduce lookup --data PHOTOS --out RUN, and then this with --encoder RUN/encoder"
        )


def choose_encoder(recipe: Any) -> Encoder:
    """The encoder of a captioner's recipe, with its trained or pretrained weights.

    Args:
        recipe: A `CaptionerRecipe`.

    Raises:
        TrainingError: The recipe asks for tokens that the encoder's folder does not give.
        ModelFolderError: There is no such encoder.
        EncoderError: Its tokens cannot be reduced so, or it cannot read photos of this size.
    """
    if names_timm(recipe.encoder):
        return make_encoder(recipe.encoder, recipe.reduce, recipe.budgets, image_size=recipe.image_size)
    encoder = Encoder.load(recipe.encoder)
    if recipe.reduce and encoder.config.architecture != f"timm_{recipe.reduce}":
        raise TrainingError(
            f"reduce is for --encoder timm:NAME; the tokens of {recipe.encoder} are those of its training "
            f"({encoder.config.architecture}): leave reduce out"
        )
    if recipe.image_size and recipe.image_size != encoder.pixels.size:
        encoder.set_image_size(recipe.image_size).check_settings()
    return encoder
