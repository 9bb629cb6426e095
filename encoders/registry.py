"""The encoders there are, and what each costs."""

from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any

import timm
import torch
import torch.nn as nn

from .cost import count_gflops, count_parameters
from .errors import EncoderError
from .vit import create_encoder

# Ours, and of timm's many ViTs those that ours are measured against.
FAMILIES = [
    "lookupvit_*",
    "pooled_*",
    "tokenlearner*",
    "vittm_*",
    "vit_mini_*",
    *(f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")),
]


def describe_encoders(pattern: str = "*") -> Iterator[dict[str, Any]]:
    """Name, image_size, budgets, params (without heads) and gflops per budget of the encoders that there are.

    gflops is what is computed here; gflops_paper_order, for the encoders that have it, what it would be in the order of
    the paper's equations, to compare with its Table 1.

    Args:
        pattern: Which, with the shell's wildcards.

    Raises:
        EncoderError: None is called so.
    """
    names = timm.list_models(FAMILIES)
    chosen = [name for name in names if fnmatch(name, pattern)]
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
        if hasattr(encoder, "set_reassociation"):
            encoder.set_reassociation(False)
            row["gflops_paper_order"] = _gflops(encoder)
        yield row


def _gflops(encoder: nn.Module) -> dict[int, float]:
    return {budget: round(count_gflops(encoder, budget), 4) for budget in encoder.budgets}
