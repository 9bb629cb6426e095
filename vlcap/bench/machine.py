"""What figures were measured on: the machine, its limits, and the versions of the libraries."""

import os
import platform
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .timing import paired_times

LIBRARIES = ("vlcap", "torch", "transformers", "timm", "pycocoevalcap")


def versions(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Versions of libraries that results depend on."""
    return {name: version(name) for name in names}


def processor() -> str:
    """Name of the CPU."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe_device(device: torch.device) -> str:
    """The accelerator, or the processor and its cores, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} used"


def machine() -> dict[str, Any]:
    """The machine of a benchmark: its processor, and its limits as measured in this process."""
    return {
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "torch": versions(["torch"])["torch"],
        "matrix_gflops": matrix_peak(),
        "memory_gb_per_s": memory_bandwidth(),
    }


@cache
def matrix_peak() -> float:
    """Best GFLOP/s of a float32 matrix product."""
    a, b = torch.randn(2, 2048, 2048)
    return 2 * 2048**3 / min(paired_times({"": lambda: a @ b}, 8)[""]) / 1e9


@cache
def memory_bandwidth() -> float:
    """Best GB/s of reading float32 numbers that no cache holds."""
    matrix, vector = torch.randn(16384, 4096), torch.randn(4096)
    functions = {"sum": lambda: matrix.sum(), "product": lambda: matrix @ vector}
    return matrix.nbytes / min(map(min, paired_times(functions, 8).values())) / 1e9
