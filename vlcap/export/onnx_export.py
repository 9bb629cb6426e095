"""Export to ONNX: a captioner at one budget, as two graphs that ONNX Runtime runs without PyTorch.

    vlcap export FOLDER --budget 5                    # onnx_captioner.py captions photos with what it writes

Written into the folder:
    encoder.onnx    pixels uint8 (B, 3, S, S) -> photo (L, 2, B, K, M, d): keys and values of the compressed tokens for
                    each decoder layer's cross-attention, computed once; normalisation is part of the graph
    decoder.onnx    pieces int64 (B,), past (L, 2, B, K, T, d), photo -> logits (B, V), past (L, 2, B, K, T + 1, d)
    tokenizer.json  for the `tokenizers` library
    export.json     the photo's side and cut, the budget, the search's settings

Letters: B photos or beams, free   S side of the pixels   L layers   K heads   d width of a head   M compressed tokens
    T pieces written before, free, 0 at first   V pieces of the vocabulary
"""

import contextlib
import json
import logging
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from encoders.cross_attention import merge_heads

from ..captioner import Captioner, CaptionerError
from ..data.images import PixelConfig
from ..files.results import check_folder
from ..model.decoding import search_for, split_heads
from ..model.quantize import reassociation_off

OPSET = 20  # the first with GELU
WRITTEN = ("encoder.onnx", "decoder.onnx", "tokenizer.json", "export.json")


class EncoderGraph(nn.Module):
    """Pixels to what the decoder's cross-attention reads of them."""

    def __init__(self, captioner: Captioner, budget: int):
        super().__init__()
        self.encoder, self.budget, self.pixels = captioner.model.encoder, budget, captioner.pixels
        self.project = getattr(captioner.model, "enc_to_dec_proj", nn.Identity())
        self.keys_values = nn.ModuleList(block.crossattention.c_attn for block in captioner.model.decoder.transformer.h)
        self.heads = captioner.model.decoder.config.n_head

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        tokens = self.encoder(self.pixels.normalize(pixels), budget=self.budget).last_hidden_state
        tokens = self.project(tokens)
        return torch.stack([split_heads(layer(tokens), 2, self.heads) for layer in self.keys_values])


class DecoderGraph(nn.Module):
    """One piece for each row: GPT-2's block with cross-attention, over keys and values computed before."""

    def __init__(self, captioner: Captioner, own_head: bool = False):
        super().__init__()
        self.decoder = captioner.model.decoder
        self.heads = self.decoder.config.n_head
        # Tied to the embedding, the last product's weights are float numbers to be looked up: int8 needs a copy.
        self.head = Product(self.decoder.lm_head.weight) if own_head else self.decoder.lm_head

    def forward(
        self, pieces: torch.Tensor, past: torch.Tensor, photo: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        transformer = self.decoder.transformer
        x = transformer.wte(pieces)[:, None] + transformer.wpe.weight[past.shape[4]]  # (B, 1, D)
        extended = []
        for block, before, (keys, values) in zip(transformer.h, past, photo, strict=True):
            q, k, v = split_heads(block.attn.c_attn(block.ln_1(x)), 3, self.heads)  # (B, K, 1, d)
            now = torch.cat([before, torch.stack([k, v])], dim=3)  # (2, B, K, T + 1, d)
            extended.append(now)
            x = x + block.attn.c_proj(merge_heads(F.scaled_dot_product_attention(q, now[0], now[1])))
            [q] = split_heads(block.crossattention.q_attn(block.ln_cross_attn(x)), 1, self.heads)
            x = x + block.crossattention.c_proj(merge_heads(F.scaled_dot_product_attention(q, keys, values)))
            x = x + block.mlp(block.ln_2(x))
        return self.head(transformer.ln_f(x))[:, 0], torch.stack(extended)


class Product(nn.Module):
    """A linear layer without a bias, its weights (out, in) copied and turned."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.register_buffer("weight", weight.detach().t().contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


@torch.inference_mode()
def export_onnx(captioner: Captioner, folder: Path, budget: int | None = None, int8: bool = False) -> None:
    """Writes a captioner at one budget as ONNX graphs, in float32 but for what `int8` says.

    Args:
        captioner: In float32 and on the CPU.
        folder: Made if it isn't there.
        budget: Side of the compressed grid; None for the captioner's own.
        int8: Weights of linear layers in 8 bits, each output channel with its scale; what they are multiplied with is
            rounded at each call (ONNX Runtime's dynamic quantisation).

    Raises:
        CaptionerError: The packages for it are missing, or its settings are none that onnx_captioner.py can follow.
        OutputError: Nothing can be written into the folder.
        ValueError: A budget that doesn't fit the grid.
    """
    check_packages()
    cut = _cut(captioner.pixels)
    search = search_for(captioner.model)
    if search is None:
        raise CaptionerError(f"{captioner.name} asks for more than greedy or beam search: change its generation config")
    check_folder(folder)
    budget = budget or captioner.default_budget
    pixels = torch.zeros(2, 3, captioner.pixels.size, captioner.pixels.size, dtype=torch.uint8)
    encoder, decoder = EncoderGraph(captioner, budget).eval(), DecoderGraph(captioner, own_head=int8).eval()
    photo = encoder(pixels)
    past = torch.zeros(*photo.shape[:4], 3, photo.shape[-1])
    rows, written = torch.export.Dim("rows"), torch.export.Dim("written")
    with reassociation_off(captioner.model.encoder) if int8 else contextlib.nullcontext():
        _export(encoder, (pixels,), folder / "encoder.onnx", ["pixels"], ["photo"], {"pixels": {0: rows}}, int8)
    _export(
        decoder,
        (torch.zeros(2, dtype=torch.long), past, photo),
        folder / "decoder.onnx",
        ["pieces", "past", "photo"],
        ["logits", "extended"],
        {"pieces": {0: rows}, "past": {2: rows, 4: written}, "photo": {2: rows}},
        int8,
    )
    captioner.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "name": captioner.name,
        "budget": budget,
        "pixels": cut,
        "search": asdict(search),
        "shape": {"layers": photo.shape[0], "heads": photo.shape[3], "width": photo.shape[-1]},
    }
    (folder / "export.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def check_packages() -> None:
    """Raises CaptionerError where the packages for exporting and for running what was exported are missing."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise CaptionerError(
            "exporting needs the packages onnx, onnxscript and onnxruntime: pip install 'vlcap[onnx]'"
        ) from error


def _cut(pixels: PixelConfig) -> dict[str, str | float]:
    if pixels.crop_mode == "border":
        raise CaptionerError("photos with a border are cut by PyTorch alone: crop_mode must be center or squash")
    return {
        "size": pixels.size,
        "crop_pct": pixels.crop_pct,
        "crop_mode": pixels.crop_mode,
        "interpolation": pixels.interpolation,
    }


def write_graph(
    model: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    path: Path,
    names: list[str],
    outputs: list[str],
    dims: dict[str, dict],
) -> None:
    """Writes a module as one ONNX file, in float32.

    Args:
        model: On the CPU, in eval mode.
        inputs: Examples of what it takes.
        path: The file.
        names: What the inputs are called.
        outputs: What the outputs are called.
        dims: For each argument of its `forward`, the dimensions that may vary.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
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


def _export(
    model: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    path: Path,
    names: list[str],
    outputs: list[str],
    dims: dict[str, dict],
    int8: bool,
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch, path.name) if int8 else path
        write_graph(model, inputs, whole, names, outputs, dims)
        if int8:
            _quantize(whole, path)


def _quantize(whole: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # it advises a preparation that changes nothing here
    try:
        # 7 bits of the 8: who runs it may have a CPU on which sums of 8-bit products overflow.
        quantize_dynamic(
            whole,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(logging.NOTSET)
