"""Which engine runs a captioner: ONNX Runtime on a CPU, PyTorch on a GPU, or the one that was asked for."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from ..errors import CaptionerError

if TYPE_CHECKING:
    import torch

    from .pytorch import TorchEngine

EngineName = Literal["onnx", "pytorch"]
CHOICE = "VLCAP_ENGINE"  # environment variable that names the engine
DRIVERS = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}


def choose(name: str | None, device: str | None = None) -> EngineName:
    """The engine of this name; without one, that of $VLCAP_ENGINE, or the one that suits the device.

    Raises:
        CaptionerError: There is no engine of that name.
    """
    asked = name or os.environ.get(CHOICE) or None
    if asked is None:
        on_cpu = device == "cpu" if device else not has_gpu()
        return "onnx" if on_cpu else "pytorch"
    if asked not in get_args(EngineName):
        raise CaptionerError(f"there is no engine {asked!r}: there are {', '.join(get_args(EngineName))}")
    return cast(EngineName, asked)


def has_gpu() -> bool:
    """Whether PyTorch can use a GPU. PyTorch, which takes seconds to import, is asked only if there is a driver."""
    try:
        ctypes.CDLL(DRIVERS[sys.platform])
    except (KeyError, OSError):
        return False
    import torch

    return torch.cuda.is_available()


def torch_engine(
    folder: Path, device: str | None = None, dtype: torch.dtype | None = None, int8: bool = False
) -> TorchEngine:
    """The PyTorch engine of a captioner folder, which is checked before memory is allocated (model/folder.py).

    Args:
        folder: The captioner folder.
        device: Device to run on; None for a GPU if there is one and int8 is off, otherwise the CPU.
        dtype: Type of the weights in memory; None for float32.
        int8: Whether linear layers get 8-bit weights (model/quantize.py).

    Raises:
        CaptionerError: int8 is asked for on a GPU.
        VlcapError: The folder holds no captioner of ours.
    """
    import torch

    from ..model.loading import load_fitting_tokenizer, load_model, trained_on
    from .pytorch import TorchEngine

    device = device or ("cpu" if int8 or not torch.cuda.is_available() else "cuda")
    if int8 and torch.device(device).type != "cpu":
        raise CaptionerError(f"int8 weights are for CPUs, not for {device}: use dtype=torch.bfloat16 there")
    model = load_model(folder, dtype or torch.float32)
    tokenizer = load_fitting_tokenizer(folder, model.decoder)
    model.encoder.freeze()
    if int8:
        from ..model.quantize import quantize

        quantize(model)
    engine = TorchEngine(model.to(device), tokenizer, trained_on(folder))
    engine.int8 = int8
    return engine
