"""What LookupViT's blocks over a trunk (hybrid.py) are compared with: other blocks over the same trunk and embedding.

    create_encoder("tome9_hybrid_lite2_224").forward_tokens(pixels)    # (B, 9, D): class token and 8 others

Each kind comes twice. The number in a name, 9 or 25, is the number of tokens of the LookupViT whose cost the model
matches within 5 %, without the trunk. The model gives as many tokens, except the plain ViT, which gives all 197.

- vit: timm's ViT over 14 x 14 tokens and a class token. poolvit: the same, its last tokens averaged over a grid.
- tome, evit: the same ViT, its tokens merged, or dropped and fused (reduction.py). The class token counts.
- tokenlearner: 9 or 25 learned tokens after the first of two blocks.
- vittm: 9 or 25 process tokens, averages of the embedding, which is the memory.

Their widths and depths follow from the cost alone. All read cached features in place of pixels, as hybrids do.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer

from .hybrid import TrunkEmbed
from .preprocessing import trunk_cfg
from .reduction import EViT, PoolingViT, ToMeViT
from .sizes import sized
from .tokenlearner import TokenLearnerViT
from .trunk import Trunked
from .vittm import ViTTM

TRUNK, INDICES = "tf_efficientnet_lite2", (3, 4)


class Embedded(Trunked):
    """A ViT of timm's kind whose patches are a trunk's features. Name it first among the bases.

    Args:
        trunk: timm's name of the convolutional model.
        trunk_indices: Indices of the feature maps to read, as for `create_trunk`.
        kwargs: Other arguments of the ViT. The patch size follows from the trunk.

    Raises:
        EncoderError: As `create_trunk` does.
    """

    patch_embed: Any

    def __init__(self, trunk: str = TRUNK, trunk_indices: Sequence[int] = INDICES, **kwargs: Any):
        super().__init__(  # type: ignore[call-arg]
            **kwargs,
            dynamic_img_size=True,  # timm's word for an embedding that is a grid, not a sequence
            embed_layer=partial(TrunkEmbed, trunk, trunk_indices),
        )

    @property
    def trunk(self) -> nn.Module:
        return self.patch_embed.trunk


class TrunkViT(Embedded, VisionTransformer):
    """A ViT with class token over a trunk."""


class TrunkTokenLearner(Embedded, TokenLearnerViT):
    """TokenLearner over a trunk."""


class FixedGrid(nn.Module):
    """The process tokens' grid of a ViTTM that averages its memory: the same for images of every size.

    Args:
        side: Process tokens on a side.
        img_size: Side of the images in pixels.
        unused: What timm's ViTs tell a `PatchEmbed` about its patches.
    """

    def __init__(self, side: int, img_size: int, **unused: Any):
        super().__init__()
        self.grid_size, self.num_patches = (side, side), side * side
        self.set_input_size(img_size)

    def set_input_size(self, img_size: int, patch_size: None = None) -> None:
        self.img_size = (img_size, img_size)


class TrunkViTTM(Trunked, ViTTM):
    """ViTTM whose memory is a trunk's features, and whose process tokens start as their averages.

    Args:
        trunk: timm's name of the convolutional model.
        trunk_indices: Indices of the feature maps to read, as for `create_trunk`.
        process_grid: Process tokens on a side.
        kwargs: Other arguments of `ViTTM`. The patch sizes follow from the trunk and the grid.

    Raises:
        EncoderError: As `create_trunk` and `ViTTM` do.
    """

    def __init__(
        self, trunk: str = TRUNK, trunk_indices: Sequence[int] = INDICES, process_grid: int = 5, **kwargs: Any
    ):
        super().__init__(
            **kwargs,
            process_init="downsample",
            embed_layer=partial(FixedGrid, process_grid),
            memory_layer=partial(TrunkEmbed, trunk, trunk_indices),
        )

    @property
    def trunk(self) -> nn.Module:
        return self.memory_embed.trunk

    def embed_memory(self, x: torch.Tensor) -> torch.Tensor:
        return self.memory_embed(x).flatten(1, 2)


_VIT = "vit_hybrid_lite2_224"  # with LookupViT's depth, width and heads; what the reduced ones are made of
_reduced: dict[str, Any] = {"vit": _VIT}
_evit = {**_reduced, "reduce_at": (0, 1)}
# Arguments over those of LookupViT's blocks: depth 2, 4 heads. Widths are the multiples of 4 (for ViTTM, of 16) that
# come nearest to its cost. ToMe needs 5 blocks to leave 9 tokens: each merges at most half of them.
_RIVALS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    _VIT: (TrunkViT, {}),
    "vit9_hybrid_lite2_224": (TrunkViT, {"embed_dim": 108}),
    "vit25_hybrid_lite2_224": (TrunkViT, {"embed_dim": 140}),
    "poolvit9_hybrid_lite2_224": (PoolingViT, {**_reduced, "embed_dim": 108, "budget": 3, "budgets": (3,)}),
    "poolvit25_hybrid_lite2_224": (PoolingViT, {**_reduced, "embed_dim": 140, "budget": 5, "budgets": (5,)}),
    "tome9_hybrid_lite2_224": (ToMeViT, {**_reduced, "embed_dim": 124, "depth": 5, "r": 81}),
    "tome25_hybrid_lite2_224": (ToMeViT, {**_reduced, "embed_dim": 144, "depth": 4, "r": 50}),
    "evit9_hybrid_lite2_224": (EViT, {**_evit, "embed_dim": 196, "keep_rate": 0.18}),
    "evit25_hybrid_lite2_224": (EViT, {**_evit, "embed_dim": 224, "keep_rate": 0.335}),
    "tokenlearner9_hybrid_lite2_224": (TrunkTokenLearner, {"embed_dim": 148, "learned_grid": 3}),
    "tokenlearner25_hybrid_lite2_224": (TrunkTokenLearner, {"embed_dim": 188, "learned_grid": 5}),
    "vittm9_hybrid_lite2_224": (TrunkViTTM, {"embed_dim": 272, "process_grid": 3}),
    "vittm25_hybrid_lite2_224": (TrunkViTTM, {"embed_dim": 288, "process_grid": 5}),
}

default_cfgs = generate_default_cfgs(
    {
        name: trunk_cfg(
            224,
            first_conv=f"{'memory' if kind is TrunkViTTM else 'patch'}_embed.trunk.conv_stem",
            classifier="head",
        )
        for name, (kind, _) in _RIVALS.items()
    }
)


def _entry(name: str) -> Callable[..., nn.Module]:
    """The function that timm registers for a name of `_RIVALS`."""
    kind, own = _RIVALS[name]

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        arguments = sized("hybrid", kwargs, img_size=224, **own)
        if "vit" in own:  # a folder names its own arguments: none may load weights from elsewhere
            arguments["vit_pretrained"] = False
        return build_model_with_cfg(kind, name, pretrained, **arguments)

    create.__name__, create.__module__ = name, __name__
    return create


for _name in _RIVALS:
    register_model(_entry(_name))
