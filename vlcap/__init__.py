"""The captioner: encoder tokens and a text decoder, caption data, metrics."""

from importlib import import_module
from typing import Any

__all__ = ["Captioner"]


def __getattr__(name: str) -> Any:
    """`vlcap.Captioner` on first use: torch and transformers come with it, and `vlcap --help` can do without."""
    if name == "Captioner":
        return import_module(".captioner", __name__).Captioner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
