"""Export to ONNX: the graphs that the ONNX engine runs (vlcap/engines/onnx.py).

    vlcap export FOLDER                        # any machine with vlcap captions with it, and needs no PyTorch for it

Files in the folder:
    encoder-5.onnx  one for each budget: pixels uint8 (B, 3, S, S) -> photo (L, 2, B, K, M, d), keys and values of the
                    compressed tokens for the cross-attention of each decoder layer; normalization is part of the graph.
                    And gathered (B, blocks, M, N), gather attention averaged over heads, from encoders that gather.
                    An encoder of clips of F frames takes pixels (B, F, 3, S, S)
    decoder.onnx    one piece of each beam: pieces int64 (B, G), position int64 (1,), mask (B, 1, G, T), and for each
                    layer photo_keys, photo_values (B, K, M, d), keys, values (B, K, T, d)
                    -> logits (B, G, V), new (L, 2, B, K, G, d), and read (B, G, M), the cross-attention averaged over
                    layers and heads
    weights.bin     the weights that the graphs share
    tokenizer.json  for the `tokenizers` library
    export.json     what is known of the captioner: preprocessing, budgets, decoding settings

Letters: B photos, variable   G beams, variable   S side of the pixels   L layers   K heads   d width of a head
    M compressed tokens   N lookup tokens   T slots of the cache, variable   V pieces of the vocabulary
"""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn as nn

from ..engines.onnx import write_settings
from ..engines.pytorch import TorchEngine
from ..errors import CaptionerError
from ..files.results import check_folder
from ..model.decoding import decoder_step, keys_and_values
from ..model.quantize import reassociation_off
from .eight_bits import compute_in_eight_bits
from .shared_weights import WEIGHTS, write_shared

OPSET = 20  # the first with GELU


def files_of(budgets: Iterable[int]) -> tuple[str, ...]:
    """Names of the files that an export to these budgets writes."""
    return (*(f"encoder-{each}.onnx" for each in budgets), "decoder.onnx", WEIGHTS, "tokenizer.json", "export.json")


class EncoderGraph(nn.Module):
    """Pixels to the keys and values that the decoder's cross-attention reads, and to the gather attention."""

    def __init__(self, engine: TorchEngine, budget: int):
        super().__init__()
        model = engine.model
        self.encoder, self.decoder, self.budget = model.encoder, model.decoder, budget
        self.project = getattr(model, "enc_to_dec_proj", nn.Identity())

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        normalized = self.encoder.normalize(pixels)
        if not self.encoder.gathers:
            tokens = self.encoder(normalized, budget=self.budget).last_hidden_state
            return (keys_and_values(self.decoder, self.project(tokens)),)
        tokens, attention = self.encoder.forward_maps(normalized, self.budget)
        return keys_and_values(self.decoder, self.project(tokens)), attention.mean(dim=2)


class DecoderGraph(nn.Module):
    """One decoding step, one piece for each beam, over keys and values that were computed before."""

    def __init__(self, engine: TorchEngine, own_head: bool = False):
        super().__init__()
        self.decoder = engine.model.decoder
        # The head shares its weights with the embedding, which stays in float. int8 needs a copy of them.
        self.head = Product(self.decoder.lm_head.weight) if own_head else self.decoder.lm_head

    def forward(
        self,
        pieces: torch.Tensor,
        position: torch.Tensor,
        mask: torch.Tensor,
        photo: list[torch.Tensor],
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        new, read = [], []

        def attend_written(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            # Two products and a sum, instead of one over joined arrays: joining would copy the whole cache.
            keys, values = past[2 * layer : 2 * layer + 2]
            new.append(torch.stack([k, v]))
            scale = q.shape[-1] ** -0.5
            own = (q * k).sum(dim=-1, keepdim=True) * scale  # (B, K, G, 1): each beam's new piece
            earlier = q @ keys.transpose(-2, -1) * scale + mask  # (B, K, G, T)
            weights = torch.cat([earlier, own], dim=-1).softmax(dim=-1)
            return weights[..., :-1] @ values + weights[..., -1:] * v

        def attend_photo(layer: int, q: torch.Tensor) -> torch.Tensor:
            keys, values = photo[2 * layer : 2 * layer + 2]
            weights = (q @ keys.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)  # (B, K, G, M)
            read.append(weights.mean(dim=1))
            return weights @ values

        embedded = self.decoder.transformer.wpe(position)[0]  # (D,)
        x = decoder_step(self.decoder, pieces, embedded, attend_written, attend_photo)
        return self.head(x), torch.stack(new), torch.stack(read).mean(dim=0)


class Product(nn.Module):
    """A linear layer without a bias, with a transposed copy of the weights (out, in)."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.register_buffer("weight", weight.detach().t().contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


@torch.inference_mode()
def export_graphs(
    engine: TorchEngine,
    folder: Path,
    budgets: Iterable[int] | None = None,
    int8: bool = False,
    with_safetensors: bool = False,
    track: Any = iter,
) -> None:
    """Writes a captioner as ONNX graphs.

    Args:
        engine: A captioner's PyTorch engine, in float32 on the CPU.
        folder: Folder for the files; made if it does not exist.
        budgets: Sides of the compressed grid; None for those that the captioner was trained for.
        int8: Whether linear layers have 8-bit weights and arithmetic (eight_bits.py); the rest is float32.
        with_safetensors: Whether the graphs use the weights of the folder's own model.safetensors (shared_weights.py).
        track: Progress display: wraps the graphs while they are made.

    Raises:
        CaptionerError: The engine cannot follow the captioner's settings.
        OutputError: The folder cannot be written to.
        EncoderError: A budget does not fit the grid.
    """
    facts = engine.facts
    if engine.search() is None:
        raise CaptionerError(
            "the ONNX engine does not support its decoding settings, beyond greedy search, beams and sampling: "
            "change its generation_config.json, or take the engine pytorch"
        )
    if not facts.pixels.is_plain:
        raise CaptionerError(
            f"the ONNX engine does not support its preprocessing, {facts.pixels.crop_mode} with "
            f"{facts.pixels.interpolation}: take the engine pytorch"
        )
    budgets = list(budgets or facts.budgets)
    engine.model.encoder.check_budgets(budgets)
    check_folder(folder)
    order = reassociation_off(engine.model.encoder) if int8 else contextlib.nullcontext()
    with tempfile.TemporaryDirectory() as scratch, order:
        graphs = {f"encoder-{budget}": budget for budget in budgets} | {"decoder": 0}
        made = {}
        for name, budget in track(graphs.items()):
            path = Path(scratch, f"{name}.onnx")
            if budget:
                _export_encoder(engine, budget, path)
            else:
                _export_decoder(engine, path, own_head=int8)
            made[name] = compute_in_eight_bits(path) if int8 else onnx.load(path)
        write_shared(made, folder, with_safetensors)
    assert engine.tokenizer is not None  # for the type checker
    engine.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    write_settings(
        folder,
        {
            "budgets": budgets,
            "gflops": [engine.gflops(budget) for budget in budgets],
            "int8": int8,
            "vocab_size": engine.model.decoder.config.vocab_size,
            "facts": asdict(facts) | {"pixels": facts.pixels.to_dict(), "generation": dict(facts.generation)},
        },
    )


def _export_encoder(engine: TorchEngine, budget: int, path: Path) -> None:
    side, clip = engine.pixels.size, [engine.facts.frames] if engine.facts.frames else []
    pixels = torch.zeros(2, *clip, 3, side, side, dtype=torch.uint8)
    outputs = ["photo", "gathered"] if engine.model.encoder.gathers else ["photo"]
    graph = EncoderGraph(engine, budget).eval()
    write_graph(graph, (pixels,), path, ["pixels"], outputs, {"pixels": {0: torch.export.Dim("photos")}})


def _export_decoder(engine: TorchEngine, path: Path, own_head: bool) -> None:
    """The decoder's graph. The sizes of the example are all different, so that none is taken for another."""
    config = engine.model.decoder.config
    photos, beams, tokens, slots = 2, 3, 5, 7
    sizes = config.n_head, config.n_embd // config.n_head
    layers = range(config.n_layer)
    photo = [torch.randn(photos, sizes[0], tokens, sizes[1]) for _ in range(2 * config.n_layer)]
    past = [torch.randn(photos, sizes[0], slots, sizes[1]) for _ in range(2 * config.n_layer)]
    pieces, position = torch.zeros(photos, beams, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    mask = torch.zeros(photos, 1, beams, slots)
    dim = {name: torch.export.Dim(name) for name in ("photos", "beams", "tokens", "slots")}
    write_graph(
        DecoderGraph(engine, own_head).eval(),
        (pieces, position, mask, photo, past),
        path,
        [
            *("pieces", "position", "mask"),
            *(f"photo_{what}_{layer}" for layer in layers for what in ("keys", "values")),
            *(f"{what}_{layer}" for layer in layers for what in ("keys", "values")),
        ],
        ["logits", "new", "read"],
        {
            "pieces": {0: dim["photos"], 1: dim["beams"]},
            "position": {},
            "mask": {0: dim["photos"], 2: dim["beams"], 3: dim["slots"]},
            "photo": [{0: dim["photos"], 2: dim["tokens"]}] * len(photo),
            "past": [{0: dim["photos"], 2: dim["slots"]}] * len(past),
        },
    )


def write_graph(
    model: nn.Module,
    inputs: tuple[Any, ...],
    path: Path,
    names: list[str],
    outputs: list[str],
    dims: dict[str, Any],
) -> None:
    """Writes a module as one ONNX file, in float32.

    Args:
        model: A module on the CPU, in eval mode.
        inputs: Examples of its inputs.
        path: The file.
        names: Names of the inputs.
        outputs: Names of the outputs.
        dims: Variable dimensions of each argument of `forward`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about itself
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        torch.onnx.export(
            model,
            inputs,
            path,
            input_names=names,
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=dims,
            external_data=False,
            verbose=False,
        )
