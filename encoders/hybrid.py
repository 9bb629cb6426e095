"""Hybrid LookupViT: the lookup tokens are the feature map of a trunk, usually convolutional, instead of patches.

The LookupViT paper says that its block "can handle different tokenization"; ViT's own hybrids (arXiv 2010.11929,
section 3.1) use a ResNet's feature map in the same way. Everything after the tokens is `LookupViT` itself.

    model = timm.create_model("lookupvit_hybrid_lite2_224", num_classes=0)      # after `import encoders`
    tokens = model.forward_tokens(pixels, budget=5)                             # (B, 25, D)
    tokens = model.forward_tokens(model.trunk_features(pixels), budget=5)       # the same, from cached features

The trunk is any model that timm can build with `features_only` (timm_encoders.py). One or two of its feature maps are
normalized, projected to the width of the tokens by 1 x 1 convolutions, and added; the coarser one is resized to the
finer one.

Legend of shapes
    B: batch   S: image in pixels   R: stride of the finest feature map   h = w = ceil(S / R): lookup grid
    C_i, h_i, w_i: channels and size of feature map i   D: embed_dim
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from .ablations import AblatedLookupViT, is_ablated
from .lookupvit import LookupViT
from .preprocessing import trunk_cfg
from .sizes import sized
from .trunk import Features, OverTrunk, create_trunk, resizing


class TrunkEmbed(nn.Module):
    """Pixels (B, 3, S, S), or a trunk's feature maps, -> lookup grid (B, h, w, D).

    It takes the place of `PatchEmbed` in timm's ViTs.

    Args:
        trunk: timm's name of the model; its weights are random.
        trunk_indices: Indices of the feature maps to read, as for `create_trunk`.
        trunk_args: Arguments of the model.
        img_size: S, the size that `grid_size` is given for; over a convolutional trunk, other sizes work too.
        in_chans: Channels of the image.
        embed_dim: D.
        unused: What timm's ViTs tell a `PatchEmbed` about its patches.

    Raises:
        EncoderError: As `create_trunk` does.
    """

    def __init__(
        self,
        trunk: str,
        trunk_indices: Sequence[int],
        img_size: int,
        in_chans: int,
        embed_dim: int,
        trunk_args: dict[str, Any] | None = None,
        **unused: Any,
    ):
        super().__init__()
        self.trunk = create_trunk(trunk, trunk_indices, in_chans, img_size, **(trunk_args or {}))
        maps = self.trunk.feature_info.get_dicts()
        self.stride = maps[0]["reduction"]
        self.patch_size = (self.stride, self.stride)
        self.norms = nn.ModuleList(LayerNorm2d(each["num_chs"]) for each in maps)
        self.projections = nn.ModuleList(nn.Conv2d(each["num_chs"], embed_dim, kernel_size=1) for each in maps)
        self.set_input_size(img_size)

    def set_input_size(self, img_size: int, patch_size: None = None) -> None:
        resize = resizing(self.trunk)
        if resize and getattr(self, "img_size", (img_size,))[0] != img_size:
            resize(img_size=img_size)
        side = math.ceil(img_size / self.stride)
        self.img_size = (img_size, img_size)
        self.grid_size, self.num_patches = (side, side), side * side

    def forward(self, x: torch.Tensor | Features) -> torch.Tensor:
        maps = self.trunk(x) if isinstance(x, torch.Tensor) else x
        grid, *coarser = (
            projection(norm(each))  # (B, D, h_i, w_i)
            for each, norm, projection in zip(maps, self.norms, self.projections, strict=True)
        )
        for each in coarser:
            grid = grid + F.interpolate(each, size=grid.shape[-2:], mode="bilinear", align_corners=False)
        return grid.permute(0, 2, 3, 1).contiguous()  # a strided stream would slow every layer


class HybridLookupViT(OverTrunk, LookupViT):
    """LookupViT over a trunk.

    Args:
        trunk: timm's name of the model, usually a convolutional one.
        trunk_indices: Indices of the feature maps to read, as for `create_trunk`.
        trunk_args: Arguments of the model.
        kwargs: Other arguments of `LookupViT`. The patch size follows from the trunk.

    Raises:
        EncoderError: As `create_trunk` and `LookupViT` do.
    """

    def __init__(
        self,
        trunk: str = "tf_efficientnet_lite2",
        trunk_indices: Sequence[int] = (3, 4),
        trunk_args: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs, embed_layer=partial(TrunkEmbed, trunk, trunk_indices, trunk_args=trunk_args))
        self.any_size = resizing(self.trunk) is None

    @property
    def trunk(self) -> nn.Module:
        return self.patch_embed.trunk

    def embed_grid(self, x: torch.Tensor | Features) -> torch.Tensor:
        return super().embed_grid(x) if isinstance(x, torch.Tensor) else self.patch_embed(x)


class AblatedHybridLookupViT(HybridLookupViT, AblatedLookupViT):
    """A hybrid with Table 5's switches."""


_cfg = partial(
    trunk_cfg,
    first_conv="patch_embed.trunk.conv_stem",
    classifier=("head", "head_lookup"),
    paper_ids="arXiv:2407.12753",
    paper_name="LookupViT: Compressing visual information to a limited number of tokens",
)

default_cfgs = generate_default_cfgs(
    {
        "lookupvit_hybrid_lite0_160": _cfg(160),
        "lookupvit_hybrid_lite2_160": _cfg(160),
        "lookupvit_hybrid_lite2_224": _cfg(224),
        "lookupvit_hybrid_test_64": _cfg(64),
    }
)


def _create(variant: str, pretrained: bool, arguments: dict[str, Any]) -> HybridLookupViT:
    kind = AblatedHybridLookupViT if is_ablated(arguments) else HybridLookupViT
    return build_model_with_cfg(kind, variant, pretrained, **arguments)


@register_model
def lookupvit_hybrid_lite0_160(pretrained: bool = False, **kwargs: Any) -> HybridLookupViT:
    """Two LookupViT blocks over EfficientNet-Lite0, 10 x 10 lookup tokens."""
    arguments = sized("hybrid", kwargs, img_size=160, budgets=(3, 5, 7), trunk="tf_efficientnet_lite0")
    return _create("lookupvit_hybrid_lite0_160", pretrained, arguments)


@register_model
def lookupvit_hybrid_lite2_160(pretrained: bool = False, **kwargs: Any) -> HybridLookupViT:
    """Two LookupViT blocks over EfficientNet-Lite2, 10 x 10 lookup tokens."""
    arguments = sized("hybrid", kwargs, img_size=160, budgets=(3, 5, 7), trunk="tf_efficientnet_lite2")
    return _create("lookupvit_hybrid_lite2_160", pretrained, arguments)


@register_model
def lookupvit_hybrid_lite2_224(pretrained: bool = False, **kwargs: Any) -> HybridLookupViT:
    """Two LookupViT blocks over EfficientNet-Lite2, 14 x 14 lookup tokens."""
    arguments = sized("hybrid", kwargs, img_size=224, budgets=(3, 5, 7), trunk="tf_efficientnet_lite2")
    return _create("lookupvit_hybrid_lite2_224", pretrained, arguments)


@register_model
def lookupvit_hybrid_test_64(pretrained: bool = False, **kwargs: Any) -> HybridLookupViT:
    """For tests and `--smoke`: runs in milliseconds and learns nothing useful."""
    arguments = sized("test", kwargs, img_size=64, budget=3, budgets=(2, 3), trunk="test_efficientnet")
    return _create("lookupvit_hybrid_test_64", pretrained, arguments)
