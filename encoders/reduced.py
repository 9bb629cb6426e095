"""The registered names of ViTs with fewer tokens (reduction.py): pooling, ToMe and EViT on ViTs of four sizes.

The published costs are of DeiT-S, which is a ViT-S/16 in cost: 2.7 GMACs for ToMe with r = 13, and 3.01 for EViT with a
keep rate of 0.7. The minis keep the patches' mean, as LookupViT mini does, and have no class token.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from .preprocessing import SMALL_IMAGE, augreg_cfg
from .reduction import EViT, PoolingViT, ReducedViT, ToMeViT

_layers = {"first_conv": "patch_embed.proj", "classifier": "head"}
_SIZES = ("tiny", "small", "base")

default_cfgs = generate_default_cfgs(
    {
        **{
            f"{kind}_{size}_patch16_224": augreg_cfg(**_layers)
            for kind in ("poolvit", "tome", "evit")
            for size in _SIZES
        },
        **{f"{kind}_mini_patch8_96": augreg_cfg(**_layers, **SMALL_IMAGE) for kind in ("poolvit", "tome", "evit")},
    }
)


def _create(kind: type[ReducedViT], prefix: str, size: str, pretrained: bool, given: dict[str, Any]) -> ReducedViT:
    """A model by its size; `pretrained` loads the ViT's own weights."""
    # A folder names its own arguments; none of them may load weights from elsewhere.
    arguments = {"vit": f"vit_{size}", **given, "vit_pretrained": pretrained}
    return build_model_with_cfg(kind, f"{prefix}_{size}", False, **arguments)


@register_model
def poolvit_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> ReducedViT:
    """ViT-Ti/16, its last tokens pooled to the budget."""
    return _create(PoolingViT, "poolvit", "tiny_patch16_224", pretrained, kwargs)


@register_model
def poolvit_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> ReducedViT:
    """ViT-S/16, its last tokens pooled to the budget."""
    return _create(PoolingViT, "poolvit", "small_patch16_224", pretrained, kwargs)


@register_model
def poolvit_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> ReducedViT:
    """ViT-B/16, its last tokens pooled to the budget."""
    return _create(PoolingViT, "poolvit", "base_patch16_224", pretrained, kwargs)


@register_model
def poolvit_mini_patch8_96(pretrained: bool = False, **kwargs: Any) -> ReducedViT:
    """ViT of LookupViT mini's size, its last tokens pooled to the budget."""
    return _create(PoolingViT, "poolvit", "mini_patch8_96", pretrained, {"budgets": (3, 5, 7), **kwargs})


@register_model
def tome_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> ReducedViT:
    """ViT-Ti/16 that merges 13 tokens a block."""
    return _create(ToMeViT, "tome", "tiny_patch16_224", pretrained, kwargs)


@register_model
def tome_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> ReducedViT:
    """ViT-S/16 that merges 13 tokens a block: 2.7 GMACs in ToMe's paper."""
    return _create(ToMeViT, "tome", "small_patch16_224", pretrained, kwargs)


@register_model
def tome_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> ReducedViT:
    """ViT-B/16 that merges 13 tokens a block."""
    return _create(ToMeViT, "tome", "base_patch16_224", pretrained, kwargs)


@register_model
def tome_mini_patch8_96(pretrained: bool = False, **kwargs: Any) -> ReducedViT:
    """ViT of LookupViT mini's size that merges 20 tokens a block: 24 are left of 144."""
    return _create(ToMeViT, "tome", "mini_patch8_96", pretrained, {"r": 20, **kwargs})


@register_model
def evit_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> ReducedViT:
    """ViT-Ti/16 that keeps 70 % of its tokens three times."""
    return _create(EViT, "evit", "tiny_patch16_224", pretrained, kwargs)


@register_model
def evit_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> ReducedViT:
    """ViT-S/16 that keeps 70 % of its tokens three times: 3.01 GMACs in EViT's paper."""
    return _create(EViT, "evit", "small_patch16_224", pretrained, kwargs)


@register_model
def evit_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> ReducedViT:
    """ViT-B/16 that keeps 70 % of its tokens three times."""
    return _create(EViT, "evit", "base_patch16_224", pretrained, kwargs)


@register_model
def evit_mini_patch8_96(pretrained: bool = False, **kwargs: Any) -> ReducedViT:
    """ViT of LookupViT mini's size that keeps 54 % of its tokens three times: 25 are left of 144."""
    return _create(EViT, "evit", "mini_patch8_96", pretrained, {"keep_rate": 0.54, **kwargs})
