"""Export to ONNX: a captioner at one budget, as two graphs that ONNX Runtime runs without PyTorch.

    vlcap export FOLDER --budget 5                    # onnx_captioner.py captions photos with these files

Files in the folder:
    encoder.onnx    pixels uint8 (B, 3, S, S) -> photo (L, 2, B, K, M, d): keys and values of the compressed tokens for
                    the cross-attention of each decoder layer, computed once; normalization is part of the graph
    decoder.onnx    pieces int64 (B,), past (L, 2, B, K, T, d), photo -> logits (B, V), past (L, 2, B, K, T + 1, d)
    tokenizer.json  for the `tokenizers` library
    export.json     size and crop of the photo, the budget, the settings of the search

Letters: B photos or beams, variable   S side of the pixels   L layers   K heads   d width of a head
    M compressed tokens   T pieces written before, variable, 0 at first   V pieces of the vocabulary
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

from ..captioner import Captioner
from ..data.pixels import PixelConfig
from ..errors import CaptionerError
from ..files.results import check_folder
from ..model.decoding import decoder_step, search_for, split_heads
from ..model.quantize import reassociation_off

OPSET = 20  # the first with GELU
WRITTEN = ("encoder.onnx", "decoder.onnx", "tokenizer.json", "export.json")


class EncoderGraph(nn.Module):
    """Pixels to the keys and values that the decoder's cross-attention reads."""

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
    """One decoding step, one piece for each row, over keys and values that were computed before."""

    def __init__(self, captioner: Captioner, own_head: bool = False):
        super().__init__()
        self.decoder = captioner.model.decoder
        # The head shares its weights with the embedding, which stays in float. int8 needs a copy of them.
        self.head = Product(self.decoder.lm_head.weight) if own_head else self.decoder.lm_head

    def forward(
        self, pieces: torch.Tensor, past: torch.Tensor, photo: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        extended = []

        def extend(layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            now = torch.cat([past[layer], torch.stack([k, v])], dim=3)  # (2, B, K, T + 1, d)
            extended.append(now)
            return now[0], now[1]

        act = self.decoder.transformer.h[0].mlp.act
        x = decoder_step(self.decoder, pieces[:, None], past.shape[4], photo, extend, act)  # (B, 1, D)
        return self.head(x)[:, 0], torch.stack(extended)


class Product(nn.Module):
    """A linear layer without a bias, with a transposed copy of the weights (out, in)."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.register_buffer("weight", weight.detach().t().contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


@torch.inference_mode()
def export_onnx(captioner: Captioner, folder: Path, budget: int | None = None, int8: bool = False) -> None:
    """Writes a captioner at one budget as ONNX graphs.

    Args:
        captioner: A captioner in float32, on the CPU.
        folder: Folder for the files; made if it does not exist.
        budget: Side of the compressed grid; None for the captioner's default.
        int8: Whether the weights of linear layers are written in 8 bits, with a scale for each output channel. Their
            inputs are rounded at each call (ONNX Runtime's dynamic quantization). The rest is float32.

    Raises:
        CaptionerError: Packages are missing, or onnx_captioner.py cannot follow the captioner's settings.
        OutputError: The folder cannot be written to.
        EncoderError: The budget does not fit the grid.
    """
    check_packages()
    cut = _cut(captioner.pixels)
    search = search_for(captioner.model)
    if search is None:
        raise CaptionerError(
            f"{captioner.name} uses settings that ONNX export does not support, beyond greedy and beam search: "
            "change its generation_config.json"
        )
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
    """Raises CaptionerError if the packages for exporting and for running the export are missing."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise CaptionerError(
            "exporting needs the packages onnx, onnxscript and onnxruntime: pip install 'vlcap[onnx]'"
        ) from error


def _cut(pixels: PixelConfig) -> dict[str, str | float]:
    """Size and crop of the photo, for export.json."""
    if pixels.crop_mode == "border":
        raise CaptionerError("ONNX export does not support crop_mode border: it must be center or squash")
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

    logging.disable(logging.WARNING)  # it recommends a preparation that changes nothing here
    try:
        # 7 of the 8 bits: on some CPUs, sums of 8-bit products overflow.
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
