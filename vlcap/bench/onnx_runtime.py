"""ONNX Runtime against PyTorch: encoder, whole caption and greedy decoding. `vlcap bench onnx`"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutput

from ..captioner import BUNDLED, Captioner
from ..export.onnx_export import check_packages, export_onnx
from ..model.tokenizer import load_tokenizer
from . import peers
from .timing import Row, compared, paired_times


def bench_onnx(quick: bool = False) -> list[Row]:
    """The graphs that `vlcap export` writes, run by ONNX Runtime, against the same peers in PyTorch.

    Raises:
        CaptionerError: Packages are missing.
    """
    check_packages()
    model, vit, gpt2 = peers.captioner(), peers.encoder(peers.VIT), peers.vit_gpt2()
    model.generation_config.min_new_tokens = peers.PIECES
    captioner = Captioner(model, load_tokenizer(BUNDLED))
    exported = _export_all(captioner, sides=(5,) if quick else (3, 5))
    rows: list[Row] = []

    def versus(task: str, peer: str, theirs: Callable[[], Any], ours: Callable[[Any], Any]) -> None:
        functions: dict[str, Any] = {peer: theirs, **{what: partial(ours, each) for what, each in exported.items()}}
        for row in compared(paired_times(functions, 2 if quick else 5), against=peer):
            limited = task == "greedy decoding" and "int8" not in row["what"]
            limit = peers.of_reading(peers.weight_bytes(model), row["ms"]) if limited else None
            rows.append({**row, "task": task, "against": peer, "of_limit": limit})

    for batch in (8, 1):
        pixels = torch.randint(256, (batch, 3, captioner.pixels.size, captioner.pixels.size), dtype=torch.uint8)
        floats = captioner.normalize(pixels)
        versus(
            f"encoder, batch {batch}",
            peers.VIT,
            partial(vit.forward_tokens, floats),
            partial(_encode, pixels.numpy()),
        )
    array = pixels.numpy()
    versus(
        "whole caption",
        "ViT-B/16 + GPT-2, generate",
        partial(gpt2.generate, pixel_values=floats, num_beams=4, **peers.EXACTLY),
        lambda each: each.find(each.encode(array)),
    )
    tokens = BaseModelOutput(last_hidden_state=captioner.encode(pixels, 5))
    photos = {id(each): each.encode(array) for each in exported.values()}
    for each in exported.values():
        each.search = replace(each.search, num_beams=1)
    versus(
        "greedy decoding",
        "generate",
        lambda: model.generate(encoder_outputs=tokens, num_beams=1, **peers.EXACTLY),
        lambda each: each.find(photos[id(each)]),
    )
    return rows


def _encode(pixels: np.ndarray, captioner: Any) -> np.ndarray:
    return captioner.encode(pixels)


def _export_all(captioner: Captioner, sides: Sequence[int]) -> dict[str, Any]:
    """Exported captioners by name: each side of the grid in float32 and in int8."""
    from ..export.onnx_captioner import OnnxCaptioner  # imports onnxruntime, which an installation may lack

    exported = {}
    with TemporaryDirectory() as name:
        for side in sides:
            for label in ("", " int8"):
                folder = Path(name) / f"{side}{label}"
                export_onnx(captioner, folder, budget=side, int8=bool(label))
                exported[f"LookupViT-B/16 {side}x{side}{label}"] = OnnxCaptioner(folder)
    return exported
