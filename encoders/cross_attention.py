"""Multi-head bidirectional cross-attention: one attention matrix for both directions (LookupViT, section 3.3).

    gathered, attn = Gather(dim, num_heads)(compressed, lookup)     # Algorithm 1: lookup -> compressed
    infused = Infuse(dim, num_heads)(compressed, attn)              # Algorithm 2: compressed -> lookup

Two of its products can be computed in a cheaper order while there are few compressed tokens. Per head,
    gather   A (x W_v + b) = (A x) W_v + b       x: what is attended to; the rows of A sum to 1
    infuse   (A^T V) W_o   = A^T (V W_o)
In both, N D^2 + N M D MACs become K M N D + M D^2: the N lookup tokens are multiplied by K M rows instead of a D x D
matrix. Each call chooses the cheaper order. `reassociate = False` keeps the paper's order.

Legend of shapes
    B: batch   N: lookup tokens   M: compressed tokens   D: dim   K: num_heads   d = D / K
"""

from functools import partial

import torch
import torch.nn as nn

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class Gather(nn.Module):
    """MHBC from lookup to compressed tokens (Algorithm 1), without its residual. Returns its attention for `Infuse`."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, attn_drop: float = 0.0, proj_drop: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.reassociate = True
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.k = nn.Linear(dim, dim, bias=qkv_bias)
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.q_norm = LayerNorm(dim)
        self.k_norm = LayerNorm(dim)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, compressed: torch.Tensor, lookup: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, M, D) and (B, N, D) -> gathered (B, M, D), and attention (B, K, M, N), after its dropout."""
        q = split_heads(self.q_norm(self.q(compressed)) * self.scale, self.num_heads)  # (B, K, M, d)
        k = split_heads(self.k_norm(self.k(lookup)), self.num_heads)  # (B, K, N, d)
        attn = (q @ k.transpose(-2, -1)).softmax(dim=-1)  # (B, K, M, N)
        attn = self.attn_drop(attn)
        dropped = self.training and self.attn_drop.p > 0  # then the rows of A do not sum to 1
        if self.reassociate and not dropped and is_cheaper(attn, lookup.shape[-1]):
            gathered = self.attend_then_project(attn, lookup)
        else:
            v = split_heads(self.v(lookup), self.num_heads)  # (B, K, N, d)
            gathered = merge_heads(attn @ v)
        return self.proj_drop(self.proj(gathered)), attn  # (B, M, D)

    def attend_then_project(self, attn: torch.Tensor, lookup: torch.Tensor) -> torch.Tensor:
        """(A x) W_v + b: (B, M, D)."""
        # One product per image, then one per head with the batch in its rows: weights are not copied for the batch.
        # shape[0] instead of len(), which torch.export would take for a constant.
        rows = attn.transpose(1, 2).flatten(1, 2) @ lookup  # (B, M * K, D)
        rows = rows.unflatten(1, (-1, self.num_heads)).flatten(0, 1).transpose(0, 1)  # (K, B * M, D)
        weight = self.v.weight.unflatten(0, (self.num_heads, -1)).transpose(1, 2)  # (K, D, d)
        gathered = (rows @ weight).transpose(0, 1).flatten(1).unflatten(0, (attn.shape[0], -1))  # (B, M, D)
        return gathered if self.v.bias is None else gathered + self.v.bias


class Infuse(nn.Module):
    """MHBC from compressed to lookup tokens (Algorithm 2), without its residual: `Gather`'s attention, transposed.

    Each head uses the transposed matrix as it is; its rows are not normalized again.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, proj_drop: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.reassociate = True
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.v_norm = LayerNorm(dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, compressed: torch.Tensor, attn: torch.Tensor) -> torch.Tensor:
        """(B, M, D) and attention (B, K, M, N) -> infused (B, N, D)."""
        v = self.v_norm(self.v(compressed))  # (B, M, D)
        if self.reassociate and is_cheaper(attn, v.shape[-1]):
            return self.proj_drop(self.project_then_attend(v, attn))
        infused = merge_heads(attn.transpose(-2, -1) @ split_heads(v, self.num_heads))
        return self.proj_drop(self.proj(infused))  # (B, N, D)

    def project_then_attend(self, v: torch.Tensor, attn: torch.Tensor) -> torch.Tensor:
        """A^T (V W_o) + b: (B, N, D)."""
        heads = v.flatten(0, 1).unflatten(1, (self.num_heads, -1)).transpose(0, 1)  # (K, B * M, d)
        weight = self.proj.weight.t().unflatten(0, (self.num_heads, -1))  # (K, d, D)
        rows = (heads @ weight).unflatten(1, (attn.shape[0], -1)).transpose(0, 1).flatten(1, 2)  # (B, K * M, D)
        # The product adds the bias too.
        return torch.baddbmm(self.proj.bias, attn.flatten(1, 2).transpose(1, 2), rows)


def is_cheaper(attn: torch.Tensor, dim: int) -> bool:
    """Whether K M N D + M D^2 MACs are fewer than N D^2 + N M D, for attention (B, K, M, N) and D = dim."""
    num_heads, few, many = attn.shape[1:]
    return num_heads * few * many + few * dim < many * dim + many * few


def split_heads(x: torch.Tensor, num_heads: int) -> torch.Tensor:
    """(B, L, D) -> (B, K, L, d)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """(B, K, L, d) -> (B, L, D)."""
    return x.transpose(1, 2).flatten(2)
