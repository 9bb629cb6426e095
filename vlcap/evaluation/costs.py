"""What a caption costs: GFLOPs of its decoding, milliseconds of encoding and decoding, parameters."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..captioner import Captioner

Track = Callable[[Iterable, int, str], Iterable]  # (items, how many, what) -> the items, with progress shown
Turn = Callable[[int], tuple[float, ...]]  # number of a round -> milliseconds of each part


def no_track(items: Iterable, total: int, what: str) -> Iterable:
    """The `Track` that shows nothing."""
    return items


def count_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def count_decoder_gflops(captioner: Captioner, tokens: int, length: int, **generation: Any) -> float:
    """GFLOPs of decoding one caption, counted while the search runs: every beam, and whatever is computed twice.

    Args:
        captioner: Captioner whose decoder is counted.
        tokens: Number of tokens that the decoder reads.
        length: Pieces of the caption, its end included.
        generation: Generation settings over the captioner's own.
    """
    model = captioner.model
    states = torch.zeros(1, tokens, model.encoder.config.hidden_size, device=model.device, dtype=model.dtype)
    exactly = {"min_new_tokens": length, "max_new_tokens": length}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        captioner.decode_ids(states, **generation | exactly)
    return counter.get_total_flops() / 1e9


def time_in_turns(turns: Sequence[Turn], rounds: int, track: Track = no_track) -> list[tuple[float, ...]]:
    """The median milliseconds of each part of each turn.

    In each round every turn is taken once, a different one first each time, so that whatever else the machine does
    slows down all of them. The first round warms up and is not counted.

    Args:
        turns: Functions that do the work and return the milliseconds of its parts.
        rounds: Rounds that are counted.
        track: Progress display.
    """
    found: list[list[tuple[float, ...]]] = [[] for _ in turns]
    for number in track(range(rounds + 1), rounds + 1, "timing"):
        for step in range(len(turns)):
            which = (number + step) % len(turns)
            found[which].append(turns[which](number))
    return [tuple(statistics.median(part) for part in zip(*times[1:], strict=True)) for times in found]


def time_caption(captioner: Captioner, photo: Image.Image, budget: int, **generation: Any) -> tuple[float, float]:
    """Milliseconds of encoding and of decoding one photo."""
    pixels = captioner.preprocess([photo])
    start = _now(captioner)
    tokens = captioner.encode(pixels, budget)
    middle = _now(captioner)
    captioner.decode_ids(tokens, **generation)
    return (middle - start) * 1000, (_now(captioner) - middle) * 1000


def machine(device: torch.device) -> str:
    """The accelerator's name, or the processor's with its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line[:10] == "model name"]
        name = named[0] if named else name
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} used"


def _now(captioner: Captioner) -> float:
    if captioner.model.device.type == "cuda":
        torch.cuda.synchronize(captioner.model.device)
    return time.perf_counter()
