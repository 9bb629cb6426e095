"""The encoders there are, and what each costs."""

from collections.abc import Iterator
from typing import Any

import timm
import torch

from .cost import count_gflops
from .vit import create_encoder

# Ours, and of timm's many ViTs those that ours are measured against.
FAMILIES = ["lookupvit_*", "tokenlearner*", "vittm_*", "vit_tiny_patch16_224", "vit_small_patch16_224",
            "vit_base_patch16_224", "vit_large_patch16_224"]


def describe_encoders() -> Iterator[dict[str, Any]]:
    """Name, image_size, budgets, params (without heads) and gflops per budget of every encoder there is."""
    for name in timm.list_models(FAMILIES):
        with torch.device("meta"):  # shapes are enough to count
            encoder = create_encoder(name, num_classes=0)
        yield {
            "name": name,
            "image_size": encoder.pretrained_cfg["input_size"][-1],
            "budgets": list(encoder.budgets),
            "params": sum(parameter.numel() for parameter in encoder.parameters()),
            "gflops": {budget: round(count_gflops(encoder, budget), 4) for budget in encoder.budgets},
        }
