"""The encoders there are, and what each costs."""

from collections.abc import Iterator
from typing import Any

import timm
import torch

from .cost import count_gflops


def describe_encoders() -> Iterator[dict[str, Any]]:
    """Every encoder registered here: name, image_size, budgets, params (without heads), gflops per budget."""
    for name in timm.list_models("lookupvit_*"):
        with torch.device("meta"):  # shapes are enough to count
            encoder = timm.create_model(name, num_classes=0)
        yield {
            "name": name,
            "image_size": encoder.pretrained_cfg["input_size"][-1],
            "budgets": list(encoder.budgets),
            "params": sum(parameter.numel() for parameter in encoder.parameters()),
            "gflops": {budget: round(count_gflops(encoder, budget), 4) for budget in encoder.budgets},
        }
