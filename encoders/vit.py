"""ViT, the encoder that the others are measured against, at LookupViT mini's size. Its full sizes are timm's own.

    encoder = create_encoder("vit_base_patch16_224.augreg_in21k", pretrained=True)
    encoder.forward_tokens(pixels)            # (B, 197, 768): class token and 14 x 14 patches

A. Dosovitskiy et al., "An image is worth 16x16 words", arXiv 2010.11929.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer

from .preprocessing import SMALL_IMAGE, augreg_cfg
from .sizes import sized


class PatchViT(VisionTransformer):
    """A ViT without class token that pools the mean of its patches' tokens, as LookupViT does."""

    def __init__(self, **kwargs: Any):
        super().__init__(class_token=False, global_pool="avg", fc_norm=False, **kwargs)


default_cfgs = generate_default_cfgs(
    {
        "vit_mini_patch8_96": augreg_cfg(first_conv="patch_embed.proj", classifier="head", **SMALL_IMAGE),
    }
)


@register_model
def vit_mini_patch8_96(pretrained: bool = False, **kwargs: Any) -> PatchViT:
    """ViT of LookupViT mini's size: 144 tokens."""
    return build_model_with_cfg(PatchViT, "vit_mini_patch8_96", pretrained, **sized("mini", kwargs))
