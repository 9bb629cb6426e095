"""Trunks: feature maps of any timm model, convolutional or not, for encoders built on top of one.

The features of a frozen trunk can be computed once and cached: such an encoder takes the output of `trunk_features`
wherever it takes pixels (B, 3, S, S).

Legend of shapes
    B: batch   S: image in pixels   C_i, h_i, w_i: channels and size of feature map i
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import timm
import torch
import torch.nn as nn
from timm.layers import Format

from .errors import EncoderError
from .interface import TokenEncoder

Features = Sequence[torch.Tensor]  # feature maps, finest first: (B, C_i, h_i, w_i)


def create_trunk(
    name: str,
    indices: Sequence[int],
    in_chans: int = 3,
    img_size: int | None = None,
    pretrained: bool = False,
    overlay: dict[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A timm model that gives feature maps (B, C_i, h_i, w_i), a list of them.

    Args:
        name: timm's name of the model.
        indices: Indices of its feature maps, as timm's `out_indices`: one or two, finest first.
        in_chans: Channels of the image.
        img_size: Side of the image in pixels, for a model that has to know it; others do without.
        pretrained: Whether timm's weights are loaded, or those in `overlay`; otherwise they are random.
        overlay: timm's `pretrained_cfg_overlay`; its state_dict holds other weights.
        kwargs: Further arguments of the model.

    Raises:
        EncoderError: timm has no such model, or the model cannot give these feature maps.
    """
    if not timm.is_model(name):  # otherwise timm might take the name for something to download
        raise EncoderError(f"trunk {name!r} is not a timm model")
    if not 1 <= len(indices) <= 2:
        raise EncoderError(f"trunk_indices {list(indices)}: name one feature map or two")
    given = {**kwargs, "in_chans": in_chans, "out_indices": tuple(indices)}
    weights = {"pretrained": pretrained, "pretrained_cfg_overlay": overlay}
    try:
        trunk = _create_features(name, img_size, **given, **weights)
        if getattr(trunk, "output_fmt", Format.NCHW) != Format.NCHW:  # a Swin's (B, h_i, w_i, C_i)
            trunk = _create_features(name, img_size, **given, **weights, feature_cls="getter")
        trunk.feature_info.get_dicts()
        return trunk
    except (RuntimeError, AttributeError, AssertionError, IndexError, TypeError) as error:
        raise EncoderError(f"trunk {name} gives no feature maps {list(indices)} ({error})") from error


def _create_features(name: str, img_size: int | None, **kwargs: Any) -> nn.Module:
    """timm's model in its form that gives feature maps, made for images of a size if it is made for any one."""
    sized = {} if img_size is None else {"img_size": img_size}
    try:
        return timm.create_model(name, features_only=True, **kwargs, **sized)
    except TypeError as error:
        if not sized or "argument 'img_size'" not in str(error):
            raise
        return timm.create_model(name, features_only=True, **kwargs)


def last_maps(name: str, img_size: int | None = None, **kwargs: Any) -> list[int]:
    """Indices of a model's last two feature maps; of the last alone, if the one before it is no finer, as in a ViT.

    Args:
        name: timm's name of the model.
        img_size: Side of the image in pixels.
        kwargs: Further arguments of the model.

    Raises:
        EncoderError: The model gives no feature maps.
    """
    try:
        with torch.device("meta"):
            described = _create_features(name, img_size, out_indices=(0,), **kwargs)  # every model has a first one
            strides = [each["reduction"] for each in described.feature_info.info]
    except (RuntimeError, AttributeError, AssertionError, IndexError, TypeError) as error:
        raise EncoderError(f"trunk {name} gives no feature maps ({error})") from error
    last = len(strides) - 1
    return [last - 1, last] if last and strides[last - 1] < strides[last] else [last]


def resizing(trunk: nn.Module) -> Callable[..., None] | None:
    """What takes a trunk to images of another size, if it has to be told of it."""
    return getattr(getattr(trunk, "model", trunk), "set_input_size", None)


class Trunked:
    """What models over a trunk share; it may be frozen, and its features be given in place of pixels.

    Name it first among the bases. `TimmEncoder` makes an encoder of such a model, as of any of timm's kind.
    """

    has_trunk = True
    starts_from: Literal["vit", "trunk"] | None = "trunk"
    trunk: Any
    trunk_frozen = False

    @torch.jit.ignore
    def freeze_trunk(self) -> None:
        """Stops the gradients of the trunk and keeps its batch norms in eval mode, even after `train`."""
        self.trunk_frozen = True
        self.trunk.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Any:
        super().train(mode)  # type: ignore[misc]
        if self.trunk_frozen:
            self.trunk.eval()
        return self

    def trunk_features(self, x: torch.Tensor | Features) -> Features:
        """Pixels (B, 3, S, S) -> the feature maps that make the tokens, finest first; features stay unchanged."""
        return self.trunk(x) if isinstance(x, torch.Tensor) else x


class OverTrunk(Trunked, TokenEncoder):
    """The part of the contract that encoders of any size over a trunk share. Name it first among the bases."""

    any_size = True
