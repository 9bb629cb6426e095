"""A convolutional trunk's own features as tokens, pooled to the budget: the baseline for blocks over the same trunk.

Each feature map is layer-normalized over its channels and averaged over an s x s grid; the maps are concatenated along
their channels. Nothing is learned beyond the trunk. With s as large as the finest map, a decoder reads all features.

Legend of shapes
    B: batch   S: image in pixels   C: channels of all feature maps together   s: budget   M = s * s: tokens
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from .preprocessing import trunk_cfg
from .trunk import Features, OverTrunk, create_trunk


class PooledTrunk(OverTrunk, nn.Module):
    """A trunk, pooling and a linear head.

    Args:
        trunk: timm's name of the convolutional model.
        trunk_indices: Indices of its feature maps, as for `create_trunk`.
        img_size: S that the model is made for; other sizes work too.
        in_chans: Channels of the image.
        num_classes: Number of classes of the head; 0 for no head.
        budget: Default s.
        budgets: Values of s that it is compared at.

    Raises:
        EncoderError: As `create_trunk` does.
    """

    has_choice = True

    def __init__(
        self,
        trunk: str = "tf_efficientnet_lite2",
        trunk_indices: Sequence[int] = (3, 4),
        img_size: int = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        budget: int = 5,
        budgets: Sequence[int] = (3, 5, 7),
    ):
        super().__init__()
        self.trunk = create_trunk(trunk, trunk_indices, in_chans)
        self.stride = self.trunk.feature_info.reduction()[0]
        self.num_features = self.head_hidden_size = sum(self.trunk.feature_info.channels())
        self.num_prefix_tokens = 0
        self.budget, self.budgets = budget, tuple(budgets)
        self.head_drop = nn.Identity()
        self.reset_classifier(num_classes)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    @torch.jit.ignore
    def set_input_size(self, img_size: int) -> None:
        """Changes nothing: nothing here depends on positions."""

    def grid_side(self, size: int) -> int:
        """Side of the finest feature map for a square image of `size` pixels."""
        return math.ceil(size / self.stride)

    def forward_tokens(self, x: torch.Tensor | Features, budget: int | None = None) -> torch.Tensor:
        """Pixels (B, 3, S, S), or the trunk's features of them, -> tokens (B, M, C)."""
        maps = self.trunk_features(x)
        side = self.check_budget(budget, maps[0].shape[-2:])
        pooled = []
        for each in maps:
            normed = F.layer_norm(each.permute(0, 2, 3, 1), each.shape[1:2]).permute(0, 3, 1, 2)
            if side > min(each.shape[-2:]):
                normed = F.interpolate(normed, size=(side, side), mode="bilinear", align_corners=False)
            pooled.append(F.adaptive_avg_pool2d(normed, side))
        return torch.cat(pooled, dim=1).flatten(2).transpose(1, 2)

    def forward_features(self, x: torch.Tensor | Features, budget: int | None = None) -> torch.Tensor:
        return self.forward_tokens(x, budget)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        pooled = self.head_drop(features.mean(dim=1))
        return pooled if pre_logits else self.head(pooled)

    def forward_pooled(self, x: torch.Tensor | Features, budget: int | None = None) -> tuple[torch.Tensor, ...]:
        return (self.head_drop(self.forward_tokens(x, budget).mean(dim=1)),)

    def forward(self, x: torch.Tensor | Features, budget: int | None = None) -> torch.Tensor:
        return self.forward_head(self.forward_features(x, budget))


_layers = {"first_conv": "trunk.conv_stem", "classifier": "head"}

default_cfgs = generate_default_cfgs(
    {
        "pooled_lite2_224": trunk_cfg(224, **_layers),
        "pooled_test_64": trunk_cfg(64, **_layers),
    }
)


@register_model
def pooled_lite2_224(pretrained: bool = False, **kwargs: Any) -> PooledTrunk:
    """EfficientNet-Lite2's feature maps at strides 16 and 32."""
    return build_model_with_cfg(PooledTrunk, "pooled_lite2_224", pretrained, **kwargs)


@register_model
def pooled_test_64(pretrained: bool = False, **kwargs: Any) -> PooledTrunk:
    """For tests: runs in milliseconds."""
    model_args = dict(img_size=64, trunk="test_efficientnet", budget=3, budgets=(2, 3))
    return build_model_with_cfg(PooledTrunk, "pooled_test_64", pretrained, **dict(model_args, **kwargs))
