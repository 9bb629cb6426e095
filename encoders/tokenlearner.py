"""ViT with TokenLearner: after half or three quarters of the blocks, 16 learned tokens replace all others.

M. Ryoo et al., "TokenLearner: What can 8 learned tokens do for images and videos?", arXiv 2106.11297, in the form with
an MLP that its authors recommend (version 1.1).

Legend of shapes
    B: batch   N: patches   S: learned tokens   D: embed_dim
"""

from typing import Any

import torch
import torch.nn as nn
from timm.layers import Mlp
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from .preprocessing import SMALL_IMAGE, augreg_cfg
from .sizes import sized
from .vit import PatchViT


class TokenLearner(nn.Module):
    """(B, N, D) -> (B, S, D): each learned token is a weighted mean of all tokens, with weights from an MLP."""

    def __init__(self, dim: int, num_tokens: int, hidden_dim: int = 64):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(in_features=dim, hidden_features=hidden_dim, out_features=num_tokens)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.mlp(self.norm(x)).transpose(1, 2).softmax(dim=-1)  # (B, S, N)
        return weights @ x  # (B, S, D)


class TokenLearnerViT(PatchViT):
    """A ViT without class token whose later blocks see only learned tokens.

    Args:
        learn_at: Share of the blocks that come before TokenLearner; their number is rounded down.
        learned_grid: Square root of the number of learned tokens.
        kwargs: timm's arguments of a ViT.
    """

    def __init__(self, learn_at: float = 0.5, learned_grid: int = 4, **kwargs: Any):
        super().__init__(**kwargs)
        self.learn_before = int(learn_at * len(self.blocks))
        self.token_learner = TokenLearner(self.embed_dim, learned_grid**2)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W) -> (B, S, D)."""
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        for i, block in enumerate(self.blocks):
            if i == self.learn_before:
                x = self.token_learner(x)
            x = block(x)
        return self.norm(x)


_layers = {"first_conv": "patch_embed.proj", "classifier": "head"}

default_cfgs = generate_default_cfgs(
    {
        **{
            f"tokenlearner{part}_{size}_patch16_224": augreg_cfg(**_layers)
            for part in (12, 34)
            for size in ("small", "base", "large")
        },
        **{f"tokenlearner{part}_mini_patch8_96": augreg_cfg(**_layers, **SMALL_IMAGE) for part in (12, 34)},
    }
)


def _create(variant: str, pretrained: bool, arguments: dict[str, Any]) -> TokenLearnerViT:
    return build_model_with_cfg(TokenLearnerViT, variant, pretrained, **arguments)


@register_model
def tokenlearner12_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> TokenLearnerViT:
    """ViT-S/16 with 16 tokens after half of its blocks."""
    return _create("tokenlearner12_small_patch16_224", pretrained, sized("small", kwargs, learn_at=1 / 2))


@register_model
def tokenlearner34_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> TokenLearnerViT:
    """ViT-S/16 with 16 tokens after three quarters of its blocks."""
    return _create("tokenlearner34_small_patch16_224", pretrained, sized("small", kwargs, learn_at=3 / 4))


@register_model
def tokenlearner12_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> TokenLearnerViT:
    """ViT-B/16 with 16 tokens after half of its blocks: 19.1 GFLOPs in LookupViT's Table 1."""
    return _create("tokenlearner12_base_patch16_224", pretrained, sized("base", kwargs, learn_at=1 / 2))


@register_model
def tokenlearner34_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> TokenLearnerViT:
    """ViT-B/16 with 16 tokens after three quarters of its blocks: 27.1 GFLOPs in LookupViT's Table 1."""
    return _create("tokenlearner34_base_patch16_224", pretrained, sized("base", kwargs, learn_at=3 / 4))


@register_model
def tokenlearner12_large_patch16_224(pretrained: bool = False, **kwargs: Any) -> TokenLearnerViT:
    """ViT-L/16 with 16 tokens after half of its blocks: 66.5 GFLOPs in LookupViT's Table 1."""
    return _create("tokenlearner12_large_patch16_224", pretrained, sized("large", kwargs, learn_at=1 / 2))


@register_model
def tokenlearner34_large_patch16_224(pretrained: bool = False, **kwargs: Any) -> TokenLearnerViT:
    """ViT-L/16 with 16 tokens after three quarters of its blocks: 94.6 GFLOPs in LookupViT's Table 1."""
    return _create("tokenlearner34_large_patch16_224", pretrained, sized("large", kwargs, learn_at=3 / 4))


@register_model
def tokenlearner12_mini_patch8_96(pretrained: bool = False, **kwargs: Any) -> TokenLearnerViT:
    """ViT of LookupViT mini's size with 16 tokens after half of its blocks."""
    return _create("tokenlearner12_mini_patch8_96", pretrained, sized("mini", kwargs, learn_at=1 / 2))


@register_model
def tokenlearner34_mini_patch8_96(pretrained: bool = False, **kwargs: Any) -> TokenLearnerViT:
    """ViT of LookupViT mini's size with 16 tokens after 4 of its 6 blocks: three quarters, rounded down."""
    return _create("tokenlearner34_mini_patch8_96", pretrained, sized("mini", kwargs, learn_at=3 / 4))
