"""ViT with TokenLearner: after half or three quarters of the blocks, 16 learned tokens go on in place of all.

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
from timm.models.vision_transformer import VisionTransformer

from .preprocessing import MINI, SMALL_IMAGE, augreg_cfg
from .vit import FixedBudget


class TokenLearner(nn.Module):
    """(B, N, D) -> (B, S, D): each learned token is a weighted mean of all, its weights an MLP's of each token."""

    def __init__(self, dim: int, num_tokens: int, hidden_dim: int = 64):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(in_features=dim, hidden_features=hidden_dim, out_features=num_tokens)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.mlp(self.norm(x)).transpose(1, 2).softmax(dim=-1)  # (B, S, N)
        return weights @ x  # (B, S, D)


class TokenLearnerViT(FixedBudget, VisionTransformer):
    """A ViT without class token whose blocks from `learn_at` on see learned tokens only.

    Args:
        learn_at: Share of the blocks before the tokens are learned; their number is rounded down.
        learned_grid: Side of their number: 4 for 16.
        kwargs: timm's for a ViT.
    """

    def __init__(self, learn_at: float = 0.5, learned_grid: int = 4, **kwargs: Any):
        super().__init__(class_token=False, global_pool="avg", fc_norm=False, **kwargs)
        self.learn_before = int(learn_at * len(self.blocks))
        self.learned_grid = learned_grid
        self.token_learner = TokenLearner(self.embed_dim, learned_grid**2)

    @property
    def budget(self) -> int:
        return self.learned_grid

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

SMALL = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}
BASE = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}
LARGE = {"patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16}


def _create(variant: str, pretrained: bool, **kwargs: Any) -> TokenLearnerViT:
    return build_model_with_cfg(TokenLearnerViT, variant, pretrained, **kwargs)


@register_model
def tokenlearner12_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> TokenLearnerViT:
    """ViT-S/16, 16 tokens from half its depth on."""
    return _create("tokenlearner12_small_patch16_224", pretrained, **{**SMALL, "learn_at": 1 / 2, **kwargs})


@register_model
def tokenlearner34_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> TokenLearnerViT:
    """ViT-S/16, 16 tokens from three quarters of its depth on."""
    return _create("tokenlearner34_small_patch16_224", pretrained, **{**SMALL, "learn_at": 3 / 4, **kwargs})


@register_model
def tokenlearner12_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> TokenLearnerViT:
    """ViT-B/16, 16 tokens from half its depth on: 19.1 GFLOPs in LookupViT's Table 1."""
    return _create("tokenlearner12_base_patch16_224", pretrained, **{**BASE, "learn_at": 1 / 2, **kwargs})


@register_model
def tokenlearner34_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> TokenLearnerViT:
    """ViT-B/16, 16 tokens from three quarters of its depth on: 27.1 GFLOPs in LookupViT's Table 1."""
    return _create("tokenlearner34_base_patch16_224", pretrained, **{**BASE, "learn_at": 3 / 4, **kwargs})


@register_model
def tokenlearner12_large_patch16_224(pretrained: bool = False, **kwargs: Any) -> TokenLearnerViT:
    """ViT-L/16, 16 tokens from half its depth on: 66.5 GFLOPs in LookupViT's Table 1."""
    return _create("tokenlearner12_large_patch16_224", pretrained, **{**LARGE, "learn_at": 1 / 2, **kwargs})


@register_model
def tokenlearner34_large_patch16_224(pretrained: bool = False, **kwargs: Any) -> TokenLearnerViT:
    """ViT-L/16, 16 tokens from three quarters of its depth on: 94.6 GFLOPs in LookupViT's Table 1."""
    return _create("tokenlearner34_large_patch16_224", pretrained, **{**LARGE, "learn_at": 3 / 4, **kwargs})


@register_model
def tokenlearner12_mini_patch8_96(pretrained: bool = False, **kwargs: Any) -> TokenLearnerViT:
    """Of LookupViT mini's size, 16 tokens from half its depth on."""
    return _create("tokenlearner12_mini_patch8_96", pretrained, **{**MINI, "learn_at": 1 / 2, **kwargs})


@register_model
def tokenlearner34_mini_patch8_96(pretrained: bool = False, **kwargs: Any) -> TokenLearnerViT:
    """Of LookupViT mini's size, 16 tokens after 4 of its 6 blocks, three quarters rounded down."""
    return _create("tokenlearner34_mini_patch8_96", pretrained, **{**MINI, "learn_at": 3 / 4, **kwargs})
