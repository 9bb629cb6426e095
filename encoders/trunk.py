"""Convolutional trunks: feature maps of any timm model, for encoders that stand on top of one.

A frozen trunk's features can be computed once and kept: wherever such an encoder takes pixels (B, 3, S, S), it also
takes what its `trunk_features` gave for them.

Legend of shapes
    B: batch   S: image in pixels   C_i, h_i, w_i: channels and size of feature map i
"""

from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn as nn

from .errors import EncoderError

Features = Sequence[torch.Tensor]  # feature maps, finest first: (B, C_i, h_i, w_i)


def create_trunk(name: str, indices: Sequence[int], in_chans: int = 3) -> nn.Module:
    """A model of timm's that gives feature maps, its weights random.

    Args:
        name: timm's name of it.
        indices: Which of its feature maps, by timm's `out_indices`: one or two, finest first.
        in_chans: Channels of the image.

    Raises:
        EncoderError: timm has no such model, or cannot give its feature maps.
    """
    if not timm.is_model(name):  # before timm takes the name for something to fetch
        raise EncoderError(f"trunk {name!r} is not a model of timm's")
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


class OverTrunk:
    """What encoders over a trunk share. To be named before the module among the bases."""

    trunk: Any
    trunk_frozen = False

    @torch.jit.ignore
    def freeze_trunk(self) -> None:
        """No gradients for the trunk, and its batch norms keep their statistics whatever `train` says."""
        self.trunk_frozen = True
        self.trunk.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Any:
        super().train(mode)  # type: ignore[misc]
        if self.trunk_frozen:
            self.trunk.eval()
        return self

    def trunk_features(self, x: torch.Tensor | Features) -> Features:
        """Pixels (B, 3, S, S) -> the feature maps that the tokens are made of, finest first; features as they are."""
        return self.trunk(x) if isinstance(x, torch.Tensor) else x
