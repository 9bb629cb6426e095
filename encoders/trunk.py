"""Convolutional trunks: feature maps of any timm model, for encoders built on top of one.

The features of a frozen trunk can be computed once and cached: such an encoder takes the output of `trunk_features`
wherever it takes pixels (B, 3, S, S).

Legend of shapes
    B: batch   S: image in pixels   C_i, h_i, w_i: channels and size of feature map i
"""

from collections.abc import Sequence
from typing import Any, Literal

import timm
import torch
import torch.nn as nn

from .errors import EncoderError
from .interface import TokenEncoder

Features = Sequence[torch.Tensor]  # feature maps, finest first: (B, C_i, h_i, w_i)


def create_trunk(name: str, indices: Sequence[int], in_chans: int = 3) -> nn.Module:
    """A timm model that gives feature maps, with random weights.

    Args:
        name: timm's name of the model.
        indices: Indices of its feature maps, as timm's `out_indices`: one or two, finest first.
        in_chans: Channels of the image.

    Raises:
        EncoderError: timm has no such model, or the model cannot give these feature maps.
    """
    if not timm.is_model(name):  # otherwise timm might take the name for something to download
        raise EncoderError(f"trunk {name!r} is not a timm model")
    if not 1 <= len(indices) <= 2:
        raise EncoderError(f"trunk_indices {list(indices)}: name one feature map or two")
    try:
        trunk = timm.create_model(
            name, pretrained=False, features_only=True, out_indices=tuple(indices), in_chans=in_chans
        )
        trunk.feature_info.get_dicts()
        return trunk
    except (RuntimeError, AttributeError, AssertionError, IndexError, TypeError) as error:
        raise EncoderError(f"trunk {name} gives no feature maps {list(indices)} ({error})") from error


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
