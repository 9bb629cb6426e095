"""The same comparisons on a GPU: encoders and whole captions in bfloat16, each as it is and compiled by PyTorch.

`vlcap bench gpu`. Not part of `vlcap bench` without a name, which measures the CPU.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ..errors import CaptionerError
from ..model.search import Search
from . import peers
from .timing import Row, compared, paired_times


def bench_gpu(quick: bool = False, device: str = "cuda") -> list[Row]:
    """Encoders against ViT-B/16, and our whole captions against ViT-B/16 with GPT-2 by `generate`.

    Args:
        quick: Whether to measure fewer batches and rounds, and nothing compiled.
        device: The device.

    Raises:
        CaptionerError: There is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise CaptionerError("vlcap bench gpu needs a GPU that PyTorch can use: there is none")
    place = torch.device(device)
    dtype = torch.bfloat16 if place.type == "cuda" else torch.float32  # CPUs would emulate it
    rounds = 2 if quick else 20
    rows: list[Row] = []
    for batch in (8,) if quick else (1, 8, 64):
        pixels = torch.randn(batch, 3, 224, 224, device=place, dtype=dtype)
        functions = _encoders(pixels, compiled=not quick)
        for row in compared(paired_times(functions, rounds, place), against=peers.VIT):
            rows.append({"task": "encoder", "batch": batch, **row, "against": peers.VIT})
        captions = _captions(pixels)
        against = next(iter(captions))
        for row in compared(paired_times(captions, max(2, rounds // 4), place), against=against):
            rows.append({"task": "caption", "batch": batch, **row, "against": against})
    return rows


def _encoders(pixels: torch.Tensor, compiled: bool) -> dict[str, Callable[[], Any]]:
    models: dict[str, tuple[Any, int | None]] = {peers.VIT: (_on(pixels, peers.encoder(peers.VIT)), None)}
    ours = _on(pixels, peers.encoder(peers.BASE))
    models |= {f"LookupViT-B/16 {side}x{side}": (ours, side) for side in (3, 5, 7)}
    functions: dict[str, Callable[[], Any]] = {
        name: partial(model.forward_tokens, pixels, budget=side) for name, (model, side) in models.items()
    }
    if compiled:
        functions |= {
            f"{name}, compiled": partial(torch.compile(model.forward_tokens), pixels, budget=side)
            for name, (model, side) in models.items()
        }
    return functions


def _captions(pixels: torch.Tensor) -> dict[str, Callable[[], Any]]:
    theirs, ours = _on(pixels, peers.vit_gpt2()), _on(pixels, peers.captioner())
    search = Search(**peers.EXACTLY, num_beams=4)
    return {
        "ViT-B/16 + GPT-2, generate": partial(theirs.generate, pixel_values=pixels, num_beams=4, **peers.EXACTLY),
        "LookupViT-B/16 5x5 + 6 x 512": lambda: peers.decode(
            ours, ours.encoder(pixels, budget=5).last_hidden_state, search
        ),
    }


def _on(pixels: torch.Tensor, model: Any) -> Any:
    """The model on the device of the pixels, in their number type."""
    return model.to(device=pixels.device, dtype=pixels.dtype)
