"""The list of encoders, and the cost of each."""

from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any

import timm
import torch
import torch.nn as nn

from .cost import count_gflops, count_parameters
from .errors import EncoderError
from .interface import create_encoder

# Ours, and of timm's many ViTs those that ours are compared with. A name outside this list is described if it is asked
# for in full: any timm model with a spatial feature map can be an encoder.
FAMILIES = [
    "lookupvit_*",
    "pooled_*",
    "tokenlearner*",
    "vittm_*",
    "poolvit_*",
    "tome_*",
    "evit_*",
    "vit_mini_*",
    "lookupvivit_*",  # clips of videos
    "vivit_*",
    "*_hybrid_lite*",  # LookupViT over a trunk, and its rivals there
    *(f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")),
]

# GFLOPs (2 x MACs) in the papers, by budget: LookupViT's Table 1; ViTTM's Table 2, ToMe's (arXiv 2210.09461) and EViT's
# (arXiv 2202.07800), which print MACs. The last two are of DeiT-S, a ViT-S/16 in cost.
PUBLISHED = {
    "lookupvit_base_patch16_224": {3: 12.9, 5: 16.5, 7: 21.9, 10: 33.6},
    "lookupvit_large_patch16_224": {3: 46.2, 5: 58.8, 7: 77.7, 10: 118.5},
    "vit_base_patch16_224": {14: 35.1},
    "vit_large_patch16_224": {14: 123.5},
    "tokenlearner12_base_patch16_224": {4: 19.1},
    "tokenlearner34_base_patch16_224": {4: 27.1},
    "tokenlearner12_large_patch16_224": {4: 66.5},
    "tokenlearner34_large_patch16_224": {4: 94.6},
    "vittm_base_patch16_224": {7: 14.2},
    "tome_small_patch16_224": {7: 5.4},  # r = 13
    "evit_small_patch16_224": {9: 6.02},  # keep rate 0.7
    "lookupvivit_base_patch16x2_224": {9: 453.0},  # 9x9x8 in LookupViT's Table 4, which prints MACs
    "vivit_base_patch16x2_224": {14: 910.2},
}


def describe_encoders(pattern: str = "*") -> Iterator[dict[str, Any]]:
    """Name, image_size, budgets, params (without heads) and gflops per budget of each encoder.

    gflops is the cost of the computation here. gflops_paper_order, for LookupViTs, is the cost in the order of the
    paper's equations, to compare with its Table 1. gflops_paper is what the encoder's paper says, where it does.
    gflops_without_trunk, for encoders over a trunk, leaves out the trunk's share.

    Args:
        pattern: Name of encoders, with shell wildcards, or the full name of any timm model.

    Raises:
        EncoderError: No encoder has such a name.
    """
    names = timm.list_models(FAMILIES)
    chosen = [name for name in names if fnmatch(name, pattern)] or [pattern] * timm.is_model(pattern)
    if not chosen:
        raise EncoderError(f"no encoder is called {pattern!r}: there are {', '.join(names)}")
    for name in chosen:
        with torch.device("meta"):  # shapes are enough to count
            encoder = create_encoder(name, num_classes=0)
        row = {
            "name": name,
            "image_size": encoder.pretrained_cfg["input_size"][-1],
            "budgets": list(encoder.budgets),
            "params": count_parameters(encoder),
            "gflops": _gflops(encoder),
        }
        if encoder.has_trunk:
            row["gflops_without_trunk"] = _gflops(encoder, trunk=False)
        if hasattr(encoder, "set_reassociation"):
            encoder.set_reassociation(False)
            row["gflops_paper_order"] = _gflops(encoder)
        if name in PUBLISHED:
            row["gflops_paper"] = PUBLISHED[name]
        yield row


def _gflops(encoder: nn.Module, trunk: bool = True) -> dict[int, float]:
    return {budget: round(count_gflops(encoder, budget, trunk=trunk), 4) for budget in encoder.budgets}
