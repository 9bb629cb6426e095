"""LookupViT's registered names: ViT's sizes, and two small ones. Arguments of Table 5 give its ablations."""

from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from .ablations import AblatedLookupViT, is_ablated
from .lookupvit import LookupViT
from .preprocessing import SMALL_IMAGE, augreg_cfg
from .sizes import sized

_cfg = partial(
    augreg_cfg,
    fixed_input_size=False,
    first_conv="patch_embed.proj",
    classifier=("head", "head_lookup"),
    paper_ids="arXiv:2407.12753",
    paper_name="LookupViT: Compressing visual information to a limited number of tokens",
)

default_cfgs = generate_default_cfgs(
    {
        "lookupvit_tiny_patch16_224": _cfg(),
        "lookupvit_small_patch16_224": _cfg(),
        "lookupvit_base_patch16_224": _cfg(),
        "lookupvit_large_patch16_224": _cfg(),
        "lookupvit_mini_patch8_96": _cfg(**SMALL_IMAGE),
        "lookupvit_test_patch8_48": _cfg(**{**SMALL_IMAGE, "input_size": (3, 48, 48)}),
    }
)


def _create(variant: str, pretrained: bool, arguments: dict[str, Any]) -> LookupViT:
    kind = AblatedLookupViT if is_ablated(arguments) else LookupViT
    return build_model_with_cfg(kind, variant, pretrained, **arguments)


@register_model
def lookupvit_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> LookupViT:
    """LookupViT-Ti/16."""
    return _create("lookupvit_tiny_patch16_224", pretrained, sized("tiny", kwargs))


@register_model
def lookupvit_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> LookupViT:
    """LookupViT-S/16."""
    return _create("lookupvit_small_patch16_224", pretrained, sized("small", kwargs))


@register_model
def lookupvit_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> LookupViT:
    """LookupViT-B/16, the paper's first size."""
    return _create("lookupvit_base_patch16_224", pretrained, sized("base", kwargs))


@register_model
def lookupvit_large_patch16_224(pretrained: bool = False, **kwargs: Any) -> LookupViT:
    """LookupViT-L/16, the paper's second size."""
    return _create("lookupvit_large_patch16_224", pretrained, sized("large", kwargs))


@register_model
def lookupvit_mini_patch8_96(pretrained: bool = False, **kwargs: Any) -> LookupViT:
    """For small photos: 12 x 12 lookup tokens; trains on a CPU."""
    return _create("lookupvit_mini_patch8_96", pretrained, sized("mini", kwargs, budgets=(3, 5, 7)))


@register_model
def lookupvit_test_patch8_48(pretrained: bool = False, **kwargs: Any) -> LookupViT:
    """For tests and `--smoke`: runs in milliseconds and learns nothing useful."""
    return _create("lookupvit_test_patch8_48", pretrained, sized("test", kwargs, budget=3, budgets=(2, 3)))
