"""ONNX Runtime against PyTorch: encoder, whole caption and greedy decoding. `vlcap bench onnx`"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutput

from ..captioner import BUNDLED
from ..engines.onnx import OnnxEngine
from ..engines.pytorch import TorchEngine
from ..export.graphs import export_graphs
from ..model.search import Search, find_captions
from ..model.tokenizer import load_tokenizer
from . import peers
from .timing import Row, compared, paired_times

Exported = tuple[OnnxEngine, int]  # graphs, and the side of the grid that they are to be run with


def bench_onnx(quick: bool = False) -> list[Row]:
    """The graphs that `vlcap export` writes, run by ONNX Runtime, against the same peers in PyTorch."""
    model, vit, gpt2 = peers.captioner(), peers.encoder(peers.VIT), peers.vit_gpt2()
    engine = TorchEngine(model, load_tokenizer(BUNDLED))
    exported = export_all(engine, sides=[5] if quick else [3, 5])
    rows: list[Row] = []

    def versus(task: str, peer: str, theirs: Callable[[], Any], ours: Callable[[Any], Any]) -> None:
        functions: dict[str, Any] = {peer: theirs, **{what: partial(ours, each) for what, each in exported.items()}}
        for row in compared(paired_times(functions, 2 if quick else 5), against=peer):
            limited = task == "greedy decoding" and "int8" not in row["what"]
            limit = peers.of_reading(peers.weight_bytes(model), row["ms"]) if limited else None
            rows.append({**row, "task": task, "against": peer, "of_limit": limit})

    for batch in (8, 1):
        pixels = np.random.default_rng(0).integers(256, size=(batch, 3, *[engine.pixels.size] * 2), dtype=np.uint8)
        floats = engine.normalize(pixels)
        versus(
            f"encoder, batch {batch}",
            peers.VIT,
            partial(vit.forward_tokens, floats),
            partial(encode, pixels),
        )
    versus(
        "whole caption",
        "ViT-B/16 + GPT-2, generate",
        partial(gpt2.generate, pixel_values=floats, num_beams=4, **peers.EXACTLY),
        lambda each: caption(pixels, each),
    )
    tokens = BaseModelOutput(last_hidden_state=engine.encode(pixels, 5))
    photos = {each: encode(pixels, each) for each in exported.values()}
    versus(
        "greedy decoding",
        "generate",
        lambda: model.generate(encoder_outputs=tokens, num_beams=1, **peers.EXACTLY),
        lambda each: decode(photos[each], each[0], beams=1),
    )
    return rows


def encode(pixels: np.ndarray, exported: Exported) -> np.ndarray:
    engine, side = exported
    return engine.encode(pixels, side)


def caption(pixels: np.ndarray, exported: Exported, beams: int = 4) -> Any:
    return decode(encode(pixels, exported), exported[0], beams)


def decode(photo: np.ndarray, engine: OnnxEngine, beams: int = 4) -> Any:
    search = Search(num_beams=beams, **peers.EXACTLY)
    return find_captions(engine.start(photo, search), search)


def export_all(engine: TorchEngine, sides: Sequence[int]) -> dict[str, Exported]:
    """Exported captioners and a side of the grid, by name: in float32 and in int8, with as many threads as PyTorch."""
    exported: dict[str, Exported] = {}
    with TemporaryDirectory() as name:
        for label in ("", " int8"):
            folder = Path(name) / f"graphs{label}"
            export_graphs(engine, folder, sides, int8=bool(label))
            made = OnnxEngine(folder, torch.get_num_threads())
            made.load(*sides)
            exported |= {f"LookupViT-B/16 {side}x{side}{label}": (made, side) for side in sides}
    return exported


def bench_threads(quick: bool = False) -> list[Row]:
    """The bundled captioner's graphs with 1, 2 and 4 threads: encoding a batch, and decoding it with 4 beams."""
    engines = {f"threads {threads}": OnnxEngine(BUNDLED, threads) for threads in (1, 2, 4)}
    rows: list[Row] = []
    for batch in (1, 16):
        first = next(iter(engines.values()))
        pixels = np.random.default_rng(0).integers(256, size=(batch, 3, *[first.facts.pixels.size] * 2), dtype=np.uint8)
        budget = first.exported[0]
        tasks: dict[str, Callable[[OnnxEngine], Any]] = {
            "encoder": partial(_encode_at, budget, pixels),
            "decoder": partial(decode, first.encode(pixels, budget)),
        }
        for task, function in tasks.items():
            functions = {name: partial(function, engine) for name, engine in engines.items()}
            found = compared(paired_times(functions, 3 if quick else 15), against="threads 1")
            rows += [{"task": task, "batch": batch, **row, "against": "threads 1"} for row in found]
    return rows


def _encode_at(budget: int, pixels: np.ndarray, engine: OnnxEngine) -> np.ndarray:
    return engine.encode(pixels, budget)
