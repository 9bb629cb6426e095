"""Anyone's frozen encoder: a pretrained timm model, by name or from a folder, with few tokens if asked.

    make_encoder("timm:vit_base_patch16_siglip_224", reduce="pool", budgets=[3, 5, 7])
    make_encoder("timm:FOLDER", reduce="lookup")       # blocks with random weights, for `vlcap train classifier`

timm:NAME is any model that timm has weights for; it fetches them from the Hugging Face hub, or finds them in its cache.
timm:FOLDER holds config.json and model.safetensors, as `timm.models.save_for_hf(..., safe_serialization=True)` and
`push_to_hf_hub` write them. Such a folder may be a stranger's. Of its config, the architecture, its arguments and the
preprocessing are read, under the rules of folder.py. Nothing in it is run, and pickles are not opened.

The result is an encoder like any other (encoders/timm_encoders.py). It is saved, cached, exported and compared as they
are.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import timm
import torch

from encoders import EncoderError, create_encoder
from encoders.trunk import create_trunk, last_maps

from ..data.images import PixelConfig
from ..errors import reason
from .encoder import Encoder
from .folder import ModelFolderError, WeightFile, check_encoder_settings, read_json

PREFIX = "timm:"
BUDGET = 5  # where none is asked for, or the largest that fits
PIXELS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")  # what is read of a pretrained_cfg
OTHERS = ("num_classes", "in_chans", "img_size")  # arguments of a folder that are not the encoder's

Reduce = Literal["pool", "tome", "evit", "lookup"]


@dataclass(frozen=True)
class Base:
    """A pretrained model without its classifier.

    Args:
        name: What a person calls it, for messages.
        architecture: timm's name of it.
        arguments: Arguments of the architecture.
        pixels: Preprocessing.
        weights: Its weights, by timm's names.
    """

    name: str
    architecture: str
    arguments: dict[str, Any]
    pixels: PixelConfig
    weights: Mapping[str, torch.Tensor]


def names_timm(encoder: str | None) -> bool:
    """Whether an encoder is given as timm:NAME or timm:FOLDER."""
    return encoder is not None and encoder.startswith(PREFIX)


def folder_of(encoder: str) -> Path:
    """The folder that an encoder's name would be: of timm's weights with `timm:`, of a trained encoder without."""
    name = encoder.removeprefix(PREFIX)
    return Path(encoder) if name == encoder or timm.is_model(name) else Path(name)


def make_encoder(
    name: str,
    reduce: Reduce | None = None,
    budgets: Sequence[int] | None = None,
    classes: list[str] | None = None,
    image_size: int | None = None,
    **model_args: Any,
) -> Encoder:
    """An encoder with pretrained weights.

    Args:
        name: timm:NAME or timm:FOLDER.
        reduce: How its tokens become few; None for all of them.
        budgets: Sides of the compressed grid that it is trained for; None for 5, or the model's grid if smaller.
        classes: Names of the classes of its heads, which are new; None for no heads.
        image_size: Side of the photos in pixels; None for the model's own.
        model_args: Further arguments: those of LookupViT's blocks, if reduce is lookup, otherwise of the model.

    Raises:
        ModelFolderError: There is no such model, or its weights cannot be had.
        EncoderError: Its tokens cannot be reduced so, or not to these budgets.
    """
    if budgets and not reduce:
        raise EncoderError(f"{name} gives all of its tokens: for budgets, choose --reduce pool, tome, evit or lookup")
    base = read_base(name)
    size = base.pixels.size
    if reduce == "lookup":
        own: dict[str, Any] = {"trunk": base.architecture, "trunk_args": base.arguments}
        own["trunk_indices"] = last_maps(base.architecture, size, **base.arguments)
    else:
        own = {"base": base.architecture} if reduce else {}
        own |= base.arguments
    architecture = f"timm_{reduce}" if reduce else base.architecture
    encoder = Encoder.create(architecture, classes, base.pixels, **{"img_size": size, **own, **model_args})
    if reduce == "lookup":
        filled = create_trunk(
            base.architecture,
            own["trunk_indices"],
            img_size=size,
            pretrained=True,
            overlay={"state_dict": dict(base.weights)},
            **base.arguments,
        )
        encoder.model.trunk.load_state_dict(filled.state_dict())
    else:
        encoder.model.load_state_dict(encoder.model.state_dict() | dict(base.weights))
    if image_size and image_size != size:
        encoder.set_image_size(image_size)
    if reduce:
        _set_budgets(encoder, budgets)
    encoder.check_settings()
    return encoder


def _set_budgets(encoder: Encoder, budgets: Sequence[int] | None) -> None:
    """Declares the budgets, each of which has to be one that the encoder can serve."""
    chosen = list(budgets or [min(BUDGET, encoder.grid_side())])
    encoder.check_budgets(chosen)
    encoder.set_budgets(chosen)


def read_base(name: str) -> Base:
    """The model that timm:NAME or timm:FOLDER names, with its weights.

    Raises:
        ModelFolderError: There is none, or its weights cannot be had.
    """
    check_name(name)
    model = name.removeprefix(PREFIX)
    if timm.is_model(model):
        return _from_timm(name, model)
    try:
        return _from_folder(name, Path(model))
    except ModelFolderError as error:
        raise ModelFolderError(f"no model of timm can be loaded from {model}: {error}") from None


def check_name(name: str) -> None:
    """Whether timm:NAME or timm:FOLDER names anything.

    Raises:
        ModelFolderError: There is neither such a model nor such a folder.
    """
    model = name.removeprefix(PREFIX)
    if timm.is_model(model) or Path(model).is_dir():
        return
    alike = difflib.get_close_matches(model, timm.list_models(), n=3)
    hint = f"; timm has {', '.join(alike)}" if alike else ""
    raise ModelFolderError(f"{name:.200}: timm has no model of this name, and there is no such folder{hint}")


def _from_timm(name: str, model: str) -> Base:
    try:
        made = timm.create_model(model, pretrained=True, num_classes=0)
    except Exception as error:  # from timm or the hub's client: no weights, no network, no space
        raise ModelFolderError(
            f"{name}: timm cannot load its pretrained weights ({reason(error, 200)}). It fetches them from the Hugging "
            "Face hub once; without a network, give a folder of them as timm:FOLDER"
        ) from None
    pixels = _pixels(made.pretrained_cfg, None)
    return Base(name, model, {}, pixels, made.state_dict())


def _from_folder(name: str, folder: Path) -> Base:
    values = read_json(folder / "config.json")
    if "architecture" not in values:
        raise ModelFolderError("config.json names no architecture of timm, as timm.models.save_for_hf writes it")
    if "model_type" in values:
        raise ModelFolderError(f"it is no folder of timm but a {values['model_type']!r:.100}: give it without {PREFIX}")
    architecture, given = values["architecture"], values.get("model_args") or {}
    check_encoder_settings(architecture, given)
    if given.get("in_chans") not in (None, 3):
        raise ModelFolderError(f"it reads images of {given['in_chans']} channels, not RGB")
    pixels = _pixels(values.get("pretrained_cfg", values), given.get("img_size"))
    arguments = {key: value for key, value in given.items() if key not in OTHERS and value is not None}
    file = WeightFile(folder)
    file.check_parts(given)
    try:
        with torch.device("meta"), file.bounds():
            model = create_encoder(architecture, num_classes=0, img_size=pixels.size, **arguments)
    except Exception as error:  # arguments that do not fit make timm and torch raise anything
        raise ModelFolderError(f"config.json describes no model that works: {reason(error)}") from error
    return Base(name, architecture, arguments, pixels, file.read(model))


def _pixels(cfg: Any, img_size: Any) -> PixelConfig:
    """The preprocessing in a `pretrained_cfg`, for images of another size if an argument says so.

    Raises:
        ModelFolderError: A setting is missing or makes no sense.
    """
    if not isinstance(cfg, dict):
        raise ModelFolderError(f"its pretrained_cfg describes no preprocessing: it is {cfg!r:.100}")
    try:
        pixels = PixelConfig.from_pretrained_cfg({key: cfg[key] for key in PIXELS if key in cfg})
        sides = {*(img_size if isinstance(img_size, list) else [img_size or pixels.size])}
        if len(sides) != 1 or not isinstance(side := sides.pop(), int):
            raise ModelFolderError(f"it reads images of {img_size!r:.100} pixels, which are not square")
        pixels = replace(pixels, size=side)
        pixels.eval_transform()
        return pixels
    except ModelFolderError:
        raise
    except Exception as error:  # a number in place of a list, a filter that timm does not know ...
        raise ModelFolderError(f"its pretrained_cfg describes no preprocessing: {reason(error)}") from error
