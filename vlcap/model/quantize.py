"""int8 weights for captioning on a CPU: a quarter of the memory to read for each piece, and integer arithmetic.

    Captioner.from_pretrained(int8=True)      vlcap caption photo.jpg --int8

Weights are rounded to 8 bits with a scale for each output channel. The inputs of a layer are rounded at each call, with
one scale for the whole batch, so a caption can depend slightly on the other photos of its batch. Norms, attention and
embeddings stay as they are.
"""

import contextlib
import warnings
from collections.abc import Iterator

import torch
import torch.nn as nn
from transformers import VisionEncoderDecoderModel
from transformers.pytorch_utils import Conv1D

# The fastest comes first: a decoder multiplies few rows at a time, an encoder many.
DECODER_ENGINES, ENCODER_ENGINES = ("fbgemm", "onednn", "qnnpack"), ("onednn", "fbgemm", "qnnpack")


class Int8Linear(nn.Module):
    """A linear layer with int8 weights, for CPUs: (..., in) -> (..., out) in float32.

    Args:
        weight: Weights, (out, in).
        bias: Bias, (out,) or None.
        engines: Names of torch's quantized kernels, the preferred one first.

    Attributes:
        nbytes: Size of the weights in bytes.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, engines: tuple[str, ...]):
        super().__init__()
        weight = weight.detach().float().contiguous()
        self.nbytes = weight.numel()
        scales = (weight.abs().amax(dim=1) / 127).clamp(min=1e-12).double()
        zeros = torch.zeros(len(weight), dtype=torch.long)
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = next(
            name for name in engines if name in torch.backends.quantized.supported_engines
        )
        try:
            with warnings.catch_warnings():  # torch announces a successor, which is not faster on CPUs yet
                warnings.simplefilter("ignore")
                rounded = torch.quantize_per_channel(weight, scales, zeros, axis=0, dtype=torch.qint8)
            bias = None if bias is None else bias.detach().float()
            self.packed = torch.ops.quantized.linear_prepack(rounded, bias)
        finally:
            torch.backends.quantized.engine = before
        # Without these instructions, sums of 8-bit products overflow: then inputs are rounded to 7 bits.
        self.reduce_range = not torch.cpu.get_capabilities().get("avx512_vnni", False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.quantized.linear_dynamic(x, self.packed, self.reduce_range)


def quantize(model: VisionEncoderDecoderModel) -> None:
    """Replaces all linear layers of a captioning model by `Int8Linear`, in place. It cannot be undone."""
    _replace(model.decoder, DECODER_ENGINES)
    quantize_encoder(model.encoder)


def quantize_encoder(encoder: nn.Module) -> None:
    """Replaces the linear layers of an encoder by `Int8Linear`, in place. It cannot be undone."""
    _reassociate(encoder, False)
    _replace(encoder, ENCODER_ENGINES)


@contextlib.contextmanager
def reassociation_off(encoder: nn.Module) -> Iterator[None]:
    """Turns off an encoder's re-association, which needs float weights, inside the `with` statement. In int8 the plain
    order costs no more."""
    _reassociate(encoder, False)
    try:
        yield
    finally:
        _reassociate(encoder, True)


def _reassociate(encoder: nn.Module, enable: bool) -> None:
    for module in encoder.modules():
        if hasattr(module, "set_reassociation"):
            module.set_reassociation(enable)


def _replace(parent: nn.Module, engines: tuple[str, ...]) -> None:
    for name, child in parent.named_children():
        if isinstance(child, Conv1D):
            setattr(parent, name, Int8Linear(child.weight.t(), child.bias, engines))
        elif isinstance(child, nn.Linear):
            setattr(parent, name, Int8Linear(child.weight, child.bias, engines))
        else:
            _replace(child, engines)
