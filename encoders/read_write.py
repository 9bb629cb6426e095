"""ViTTM's read-write heads and its fusions: how process tokens and memory tokens exchange what they hold.

P. Jajal et al., "Token Turing Machines are Efficient Vision Models", arXiv 2409.07613, sections 3.2.2 and 3.2.3.

Each head takes a source (B, S, D) and a target (B, T, D) and gives what the target receives, (B, T, D). When process
tokens read, the memory is the source; when they write, it is the target. The input of a head is layer-normalized,
which the paper finds to help (section 3.2.4).

Legend of shapes
    B: batch   S: source tokens   T: target tokens   D: width   c: latent width   H: attention heads
"""

from typing import Literal, get_args

import torch
import torch.nn as nn
import torch.nn.functional as F

from .errors import EncoderError

HeadKind = Literal["linear", "cross", "latent"]
FusionKind = Literal["add", "erase", "add_erase"]


class ReadWriteHead(nn.Module):
    """Attention of `target` to `source`. Subclasses define `attend`.

    Args:
        dim: D.
        latent_dim: c, the width of queries and keys over all heads.
        num_heads: H, which divides both.
        proj: Whether an output projection follows.

    Raises:
        EncoderError: H does not divide the widths.
    """

    def __init__(self, dim: int, latent_dim: int, num_heads: int, proj: bool):
        super().__init__()
        if latent_dim < 1 or latent_dim % num_heads or dim % num_heads:
            raise EncoderError(
                f"a read-write head's latent width {latent_dim} must be a multiple of its {num_heads} heads"
            )
        self.num_heads = num_heads
        self.norm_source = nn.LayerNorm(dim, eps=1e-6)
        self.norm_target = nn.LayerNorm(dim, eps=1e-6)
        self.q = nn.Linear(dim, latent_dim)
        self.k = nn.Linear(dim, latent_dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim) if proj else nn.Identity()

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        source, target = self.norm_source(source), self.norm_target(target)
        out = self.attend(self._split(self.q(target)), self._split(self.k(source)), self._split(self.v(source)))
        return self.proj(out.transpose(1, 2).flatten(2))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """(B, S, c) -> (B, H, S, c / H)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Queries (B, H, T, c/H), keys (B, H, S, c/H) and values (B, H, S, D/H) -> (B, H, T, D/H)."""
        raise NotImplementedError


class LinearHead(ReadWriteHead):
    """Linear attention (equations 5 to 9), with weights that sum to one.

    The attention is that of Katharopoulos et al. (arXiv 2006.16236): equation 8 omits the normalizer of its source.
    """

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k = 1 + F.elu(q), 1 + F.elu(k)  # equation 9
        out = q @ (k.transpose(2, 3) @ v)  # equation 8
        total = q @ k.sum(dim=2).unsqueeze(-1)  # (B, H, T, 1), positive
        return out / total


class CrossHead(ReadWriteHead):
    """Cross-attention (arXiv 1706.03762)."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class LatentHead(ReadWriteHead):
    """Latent attention (R. Dolga et al., arXiv 2402.17512): targets attend to c latents, latents to the source.

    A target's weights over a head's c / H latents sum to one, and so do a latent's weights over the source.
    """

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return q.softmax(dim=3) @ (k.softmax(dim=2).transpose(2, 3) @ v)


HEADS: dict[str, type[ReadWriteHead]] = {"linear": LinearHead, "cross": CrossHead, "latent": LatentHead}


class Fusion(nn.Module):
    """Merges tokens with what they received (section 3.2.3, Figure 4).

    Args:
        kind: "add" sums both, "erase" keeps only the new, "add_erase" mixes them with a weight per token from the mean
            of the new (equation 10). The paper does not say which of the two the weight is of; here it is the new.
        num_tokens: Number of tokens, K in equation 10.
        dim: D.

    Raises:
        EncoderError: There is no such fusion.
    """

    def __init__(self, kind: FusionKind, num_tokens: int, dim: int):
        super().__init__()
        if kind not in get_args(FusionKind):
            raise EncoderError(f"fusion {kind!r}: choose one of {', '.join(get_args(FusionKind))}")
        self.kind = kind
        if kind == "add_erase":
            self.weight = nn.Parameter(torch.randn(1, num_tokens, dim) * 0.02)
            self.bias = nn.Parameter(torch.zeros(1, num_tokens, 1))

    def forward(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """(B, K, D) twice -> (B, K, D)."""
        if self.kind == "add":
            return old + new
        if self.kind == "erase":
            return new
        alpha = torch.sigmoid(self.weight @ new.mean(dim=1).unsqueeze(-1) + self.bias)  # (B, K, 1)
        return alpha * new + (1 - alpha) * old
