"""ViT, the encoder that the others are measured against: any timm ViT by name, behind the interface of encoders.

    encoder = create_encoder("vit_base_patch16_224.augreg_in21k", pretrained=True)
    encoder.forward_tokens(pixels)            # (B, 197, 768): class token and 14 x 14 patches

A. Dosovitskiy et al., "An image is worth 16x16 words", arXiv 2010.11929.
"""

from typing import Any

import timm
import torch
import torch.nn as nn
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer

from .errors import EncoderError
from .preprocessing import MINI, SMALL_IMAGE, augreg_cfg


class FixedBudget:
    """What a timm ViT lacks of an encoder's interface, for one that has no choice of budget.

    To be named before `VisionTransformer` among the bases.
    """

    has_choice = False
    patch_embed: Any
    num_prefix_tokens: int
    fc_norm: Any
    pool: Any
    forward_features: Any
    forward_head: Any

    @property
    def budget(self) -> int:
        """The side of its grid of tokens."""
        return self.patch_embed.grid_size[0]

    @property
    def budgets(self) -> tuple[int, ...]:
        return (self.budget,)

    def grid_side(self, size: int) -> int:
        """Patches on a side of its image.

        Raises:
            EncoderError: The image isn't of the size that it was made for.
        """
        side: int = self.patch_embed.grid_size[0]
        if side * self.patch_embed.patch_size[0] != size:
            raise EncoderError(f"it reads images of {side * self.patch_embed.patch_size[0]} pixels, not of {size}")
        return side

    def token_count(self, budget: int, size: int) -> int:
        """How many tokens `forward_tokens` gives: the grid's, and class and register tokens."""
        return budget**2 + self.num_prefix_tokens

    def check_budget(self, budget: int | None) -> None:
        """Raises EncoderError for a budget that is not its own."""
        if budget not in (None, self.budget):
            raise EncoderError(f"{type(self).__name__} has no choice of budget: it is {self.budget}, not {budget!r}")

    def forward_tokens(self, x: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        """Pixels (B, 3, H, W) -> normed tokens (B, M, D), class and register tokens included."""
        self.check_budget(budget)
        return self.fc_norm(self.forward_features(x))  # the identity where the norm comes before pooling

    def forward_pooled(self, x: torch.Tensor, budget: int | None = None) -> tuple[torch.Tensor, ...]:
        """Pixels (B, 3, H, W) -> what the head reads, (B, D), alone in a tuple: LookupViT has two."""
        self.check_budget(budget)
        return (self.fc_norm(self.pool(self.forward_features(x))),)

    def forward(self, x: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        self.check_budget(budget)
        return self.forward_head(self.forward_features(x))


def create_encoder(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """An encoder by name: one of this package's, or any timm ViT.

    Raises:
        EncoderError: It is neither.
        RuntimeError: timm knows no such model, or has no weights for it.
    """
    model = timm.create_model(name, pretrained=pretrained, **kwargs)
    if hasattr(model, "forward_tokens"):
        return model
    if not isinstance(model, VisionTransformer):
        raise EncoderError(f"{name} is a {type(model).__name__}; encoders are this package's own and timm's ViTs")
    # The class is changed rather than the model wrapped: names of weights, groups and heads stay timm's.
    kind = type(model)
    model.__class__ = type(kind.__name__, (FixedBudget, kind), {"__module__": kind.__module__})
    return model


class PatchViT(FixedBudget, VisionTransformer):
    """A ViT that gives its patches' tokens and pools their mean, as LookupViT does: no class token."""

    def __init__(self, **kwargs: Any):
        super().__init__(class_token=False, global_pool="avg", fc_norm=False, **kwargs)


default_cfgs = generate_default_cfgs(
    {
        "vit_mini_patch8_96": augreg_cfg(first_conv="patch_embed.proj", classifier="head", **SMALL_IMAGE),
    }
)


@register_model
def vit_mini_patch8_96(pretrained: bool = False, **kwargs: Any) -> PatchViT:
    """Of LookupViT mini's size: 144 tokens."""
    return build_model_with_cfg(PatchViT, "vit_mini_patch8_96", pretrained, **{**MINI, **kwargs})
