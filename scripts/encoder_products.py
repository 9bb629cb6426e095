"""The matrix products of LookupViT-B/16 at batch 8, each in several ways: where the encoder's time can be saved.

    python scripts/encoder_products.py        # with OMP_NUM_THREADS=1; a minute on an idle machine

Times are the least seconds of the processor over all rounds, for one thread, so that other work on the machine hardly
matters. "now" is what encoders/ does; the others are what was tried. docs/speed.md quotes the table.

Letters as in encoders/lookupvit.py: B photos, M compressed and N lookup tokens, D width, K heads of width d.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from vlcap.bench.timing import paired_times
from vlcap.model.quantize import Int8Linear

B, N, D, K = 8, 196, 768, 12
d = D // K
LINEAR = {  # rows, inputs, outputs
    "ViT, MLP in": (B * 197, D, 4 * D),
    "ViT, MLP out": (B * 197, 4 * D, D),
    "keys of the lookup tokens": (B * N, D, D),
    "lookup MLP in": (B * N, D, D // 2),
    "lookup MLP out": (B * N, D // 2, D),
    "5x5, MLP in": (B * 25, D, 4 * D),
    "5x5, MLP out": (B * 25, 4 * D, D),
    "5x5, projections": (B * 25, D, D),
    "3x3, MLP in": (B * 9, D, 4 * D),
    "3x3, MLP out": (B * 9, 4 * D, D),
    "3x3, projections": (B * 9, D, D),
}


def linear(rows: int, inputs: int, outputs: int) -> dict[str, Callable[[], Any]]:
    """A linear layer: as it is, with weights stored (in, out), packed for oneDNN, and in 8 bits by two libraries."""
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    turned = weight.t().contiguous()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return {
        "now": lambda: F.linear(x, weight, bias),
        "turned": lambda: torch.addmm(bias, x, turned),
        "oneDNN": lambda: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], ""),
        "8 bits, oneDNN": partial(Int8Linear(weight, bias, ("onednn",)), x),
        "8 bits, FBGEMM": partial(Int8Linear(weight, bias, ("fbgemm",)), x),
    }


def patches() -> dict[str, Callable[[], Any]]:
    """Pixels to the tokens of patches, as a convolution and as one product."""
    x, weight, bias = torch.randn(B, 3, 224, 224), torch.randn(D, 3, 16, 16), torch.randn(D)

    def product() -> torch.Tensor:
        cut = x.unflatten(3, (-1, 16)).unflatten(2, (-1, 16)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(cut, weight.flatten(1), bias)

    return {
        "now": lambda: F.conv2d(x, weight, bias, stride=16).permute(0, 2, 3, 1).contiguous(),
        "product": product,
    }


def logits(m: int) -> dict[str, Callable[[], Any]]:
    """q @ k^T: torch copies the keys to make heads contiguous, which a product per photo or per head avoids."""
    q, k = torch.randn(B, m, D), torch.randn(B, N, D)
    queries, keys = (x.unflatten(-1, (K, -1)).transpose(1, 2) for x in (q, k))  # (B, K, M, d) and (B, K, N, d)

    def by_photo() -> torch.Tensor:
        return torch.stack([queries[b] @ keys[b].transpose(1, 2) for b in range(B)])

    def by_head() -> torch.Tensor:
        return torch.stack([queries[:, h] @ keys[:, h].transpose(1, 2) for h in range(K)], dim=1)

    return {"now": lambda: queries @ keys.transpose(-2, -1), "by photo": by_photo, "by head": by_head}


def gather(m: int) -> dict[str, Callable[[], Any]]:
    """A x: with a small copy of A that spares a large one of A x, and without it."""
    attn, lookup = torch.rand(B, K, m, N), torch.randn(B, N, D)
    return {"now": lambda: attn.transpose(1, 2).flatten(1, 2) @ lookup, "no copy": lambda: attn.flatten(1, 2) @ lookup}


def infuse(m: int) -> dict[str, Callable[[], Any]]:
    """A^T (V W_o) + b, and the residual: added afterwards, or by the product."""
    attn, rows = torch.rand(B, K * m, N).transpose(1, 2), torch.randn(B, K * m, D)
    lookup, bias = torch.randn(B, N, D), torch.randn(D)
    return {
        "now": lambda: lookup + torch.baddbmm(bias, attn, rows),
        "residual inside": lambda: torch.baddbmm(lookup + bias, attn, rows),
    }


def values(m: int) -> dict[str, Callable[[], Any]]:
    """V W_o by head, to (B, K * M, D): all heads at once and a copy, or each head to its place."""
    v, weight = torch.randn(B * m, K, d), torch.randn(K, d, D)

    def to_place() -> torch.Tensor:
        out = torch.empty(B, m, K, D)
        for h in range(K):
            torch.mm(v[:, h], weight[h], out=out.flatten(0, 1)[:, h])
        return out

    return {
        "now": lambda: (v.transpose(0, 1) @ weight).unflatten(1, (B, m)).transpose(0, 1).flatten(1, 2),
        "to its place": to_place,
    }


def show(name: str, functions: Mapping[str, Callable[[], Any]], rounds: int, gflop: float | None = None) -> None:
    """One line: milliseconds, and GFLOP/s where the products are the same."""
    cells = []
    for way, seconds in paired_times(functions, rounds, clock=time.process_time).items():
        rate = f" ({gflop / min(seconds):.0f} GFLOP/s)" if gflop else ""
        cells.append(f"{way} {1000 * min(seconds):.1f}{rate}")
    print(f"{name}: {', '.join(cells)}", flush=True)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=12, help="rounds of each comparison")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("milliseconds")
    for name, (rows, inputs, outputs) in LINEAR.items():
        show(name, linear(rows, inputs, outputs), rounds, gflop=2e-9 * rows * inputs * outputs)
    show("patches", patches(), rounds)
    for side in (5, 3):
        for part in (logits, gather, values, infuse):
            show(f"{side}x{side}, {part.__name__}", part(side**2), rounds)


if __name__ == "__main__":
    main()
