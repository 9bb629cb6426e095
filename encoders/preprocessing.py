"""Preprocessing that the encoders here share, so that a comparison is fair: AugReg's, as a timm `pretrained_cfg`."""

from typing import Any

# Models for small images see the whole picture, squeezed to a square, as is usual for caption data.
SMALL_IMAGE = {"input_size": (3, 96, 96), "crop_pct": 1.0, "crop_mode": "squash"}


def augreg_cfg(**kwargs: Any) -> dict[str, Any]:
    """A `pretrained_cfg` without weights; `kwargs` name the model's layers, or replace values."""
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


def trunk_cfg(size: int, **kwargs: Any) -> dict[str, Any]:
    """A `pretrained_cfg` of an encoder over a convolutional trunk: any size, the whole picture squeezed square."""
    return augreg_cfg(input_size=(3, size, size), crop_pct=1.0, crop_mode="squash", fixed_input_size=False, **kwargs)
