"""The captioner: encoder tokens and a text decoder, caption data, metrics."""

import os
from importlib import import_module
from typing import Any

from .registration import register, register_with_transformers

# ONNX Runtime's releases report their use to its makers over the network, unless this is set before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

register_with_transformers()  # imports nothing by itself

__all__ = ["Captioner", "register"]


def __getattr__(name: str) -> Any:
    """`vlcap.Captioner` on first use: torch and transformers come with it, and `vlcap --help` can do without."""
    if name == "Captioner":
        return import_module(".captioner", __name__).Captioner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
