"""The preprocessing that AugReg trained ViTs with, as timm's `pretrained_cfg` puts it; the encoders here share it."""

from typing import Any


def augreg_cfg(**kwargs: Any) -> dict[str, Any]:
    """A `pretrained_cfg` without weights; `kwargs` name the model's own layers, or change what is said here."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "fixed_input_size": True,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "license": "apache-2.0",
        **kwargs,
    }
