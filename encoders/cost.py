"""The cost of an encoder. FLOPs are 2 x MACs, as in the LookupViT paper; in most papers "GFLOPs" are MACs."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_gflops(
    encoder: nn.Module, budget: int | tuple[int, int] | None = None, size: int | None = None, trunk: bool = True
) -> float:
    """GFLOPs of `encoder.forward_tokens` for one photo, or one clip: the encoder's share of a caption.

    What no decoder reads is not computed, such as a LookupViT's last infusion.

    Args:
        encoder: An encoder, on any device, including "meta".
        budget: Side of the compressed grid, for LookupViViT also (side, times); None for the encoder's own.
        size: Side of the photo in pixels; None for the encoder's own.
        trunk: Whether the trunk counts, of an encoder that has one.
    """
    channels, height, width = encoder.pretrained_cfg["input_size"]
    parameter = next(encoder.parameters())
    shape: tuple[int, ...] = (size or height, size or width)
    if encoder.frames:
        shape = (encoder.frames, *shape)
    pixels = torch.zeros(1, channels, *shape, device=parameter.device, dtype=parameter.dtype)
    training = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        with torch.no_grad():
            seen: Any = encoder.trunk_features(pixels) if not trunk and encoder.has_trunk else pixels
            return count_gflops_of(lambda: encoder.forward_tokens(seen, budget=budget))
    finally:
        for module, mode in training:
            module.training = mode


def count_gflops_of(work: Callable[[], Any]) -> float:
    """GFLOPs of all matrix products and convolutions of a call."""
    # On a CPU the counter misses fused attention, and the count would be too low: use plain attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def count_parameters(model: nn.Module) -> int:
    """Number of weights, frozen ones included; a shared one counts once."""
    return sum(parameter.numel() for parameter in model.parameters())
