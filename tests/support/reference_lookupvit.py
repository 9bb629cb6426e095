"""A plain, slow LookupViT to test the fast one against: arXiv 2407.12753, sections 3.2 and 3.4, Algorithms 1 to 4.

Pure functions over a state dict, in float64: products of 2-D matrices, loops over images, blocks and heads. Nothing is
imported from the model; only names of parameters are shared. Everything is differentiable.
Used by `pytest tests/encoders/test_lookupvit.py`.

We read the paper's pseudo-code so:
- Attention has K heads and an output projection in each direction (gather, infuse, self-attention), as "multi-head"
  and equation 6 ask; logits are scaled by (D / K) ** -0.5. A head is a run of D / K consecutive channels.
- Q and K of the gathering and V of the infusion are layer-normalized after projection over all D channels, before the
  split into heads. The infusion reuses the gathering's attention of each head, transposed and otherwise unchanged.
- Every step is a pre-norm residual on the raw stream. Algorithm 4 hands LN(z) to Algorithms 1 and 2, whose last lines
  add to what they were handed (and line 3 of Algorithm 4 adds once more); here there is one addition, to z itself:
  z_p += proj(A V) from LN(z_p), LN(z_l); the ViT block; z_l += proj(A^T LN(W_v LN(z_p))); z_l += MLP(LN(z_l)).
- The positional embedding is added to the lookup tokens; compressed = T(features without it) + T(embedding).
- T is the bilinear resize of JAX, which antialiases: `jax.image.resize(method="bilinear", antialias=True)`.
- For a photo with another grid than the embedding's, the lookup embedding is resampled first. That is timm's
  convention, not the paper's, and the one function here that is called and not written out.
- A final norm per stream, mean pooling, a head per stream; at inference the two heads' logits are averaged.

Legend of shapes
    B: images   N: lookup tokens   M = budget ** 2: compressed tokens   D: channels   K: heads   C: classes
"""

import math

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

State = dict[str, Tensor]
EPS = 1e-6


def linear(state: State, name: str, x: Tensor) -> Tensor:
    """x W^T + b: (T, D_in) -> (T, D_out)."""
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    """LN over the channels of every token: (T, D) -> (T, D)."""
    mean = x.sum(dim=1, keepdim=True) / x.shape[1]
    variance = ((x - mean) ** 2).sum(dim=1, keepdim=True) / x.shape[1]
    return (x - mean) / (variance + EPS) ** 0.5 * state[f"{name}.weight"] + state[f"{name}.bias"]


def softmax(scores: Tensor) -> Tensor:
    """Softmax of each row, by definition; the subtracted maximum cancels, so no gradient goes through it."""
    powers = (scores - scores.detach().max(dim=1, keepdim=True).values).exp()
    return powers / powers.sum(dim=1, keepdim=True)


def mlp(state: State, name: str, x: Tensor) -> Tensor:
    """Two layers with the exact GELU, x Phi(x), between them."""
    hidden = linear(state, f"{name}.fc1", x)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return linear(state, f"{name}.fc2", hidden)


def head_channels(channels: int, num_heads: int) -> list[slice]:
    """The channels of each head."""
    width = channels // num_heads
    return [slice(head * width, (head + 1) * width) for head in range(num_heads)]


# Section 3.2


def resize_weights(size: int, new_size: int) -> list[list[float]]:
    """One axis of T: row i has the weight of each old sample in new sample i.

    A triangle over half-pixel centres, one old sample wide to each side, or `size / new_size` when that is more
    (shrinking), cut off at the border and normalized.
    """
    step = size / new_size
    support = max(step, 1.0)
    rows = []
    for i in range(new_size):
        centre = (i + 0.5) * step
        triangle = [max(0.0, 1.0 - abs(j + 0.5 - centre) / support) for j in range(size)]
        rows.append([weight / sum(triangle) for weight in triangle])
    return rows


def resize_matrix(grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """T of equation 1 as a matrix over grids flattened row by row: (new h * new w, h * w)."""
    vertical = resize_weights(grid[0], new_grid[0])
    horizontal = resize_weights(grid[1], new_grid[1])
    return torch.tensor(
        [[v * h for v in v_row for h in h_row] for v_row in vertical for h_row in horizontal], dtype=torch.float64
    )


def patch_features(state: State, image: Tensor, patch_size: int) -> Tensor:
    """F_l, without positions: one image (3, H, W) -> (N, D), row by row."""
    weight = state["patch_embed.proj.weight"]
    patches = [
        image[:, top : top + patch_size, left : left + patch_size].reshape(-1)
        for top in range(0, image.shape[1], patch_size)
        for left in range(0, image.shape[2], patch_size)
    ]
    return torch.stack(patches) @ weight.reshape(weight.shape[0], -1).T + state["patch_embed.proj.bias"]


def positions(state: State, grid: tuple[int, int], native_grid: tuple[int, int]) -> Tensor:
    """F_l,pos for a photo of this grid: (N, D)."""
    embedding = state["pos_embed"]
    if tuple(grid) != tuple(native_grid):
        embedding = resample_abs_pos_embed(
            embedding, new_size=list(grid), old_size=list(native_grid), num_prefix_tokens=0
        )
    return embedding[0]


# Section 3.3


def gather(state: State, name: str, compressed: Tensor, lookup: Tensor, num_heads: int) -> tuple[Tensor, list[Tensor]]:
    """Algorithm 1, MHBC l -> p, without the addition of line 5: the update (M, D) and K attentions (M, N)."""
    q = layer_norm(state, f"{name}.q_norm", linear(state, f"{name}.q", compressed))  # line 1
    k = layer_norm(state, f"{name}.k_norm", linear(state, f"{name}.k", lookup))  # line 2
    v = linear(state, f"{name}.v", lookup)  # line 3
    updates, attentions = [], []
    for channels in head_channels(q.shape[1], num_heads):
        width = channels.stop - channels.start
        attention = softmax(q[:, channels] @ k[:, channels].T * width**-0.5)  # line 4
        updates.append(attention @ v[:, channels])  # line 5: A V
        attentions.append(attention)
    return linear(state, f"{name}.proj", torch.cat(updates, dim=1)), attentions


def infuse(state: State, name: str, compressed: Tensor, attentions: list[Tensor]) -> Tensor:
    """Algorithm 2, MHBC p -> l, without the addition of line 3: the update (N, D)."""
    v = layer_norm(state, f"{name}.v_norm", linear(state, f"{name}.v", compressed))  # lines 1, 2
    cut = head_channels(v.shape[1], len(attentions))
    updates = [attention.T @ v[:, channels] for attention, channels in zip(attentions, cut, strict=True)]  # 3: A^T V
    return linear(state, f"{name}.proj", torch.cat(updates, dim=1))


def self_attention(state: State, name: str, x: Tensor, num_heads: int) -> Tensor:
    """MHSA of Algorithm 3: (M, D) -> (M, D). Rows of `qkv`: D of queries, D of keys, D of values."""
    width = x.shape[1]
    qkv = linear(state, f"{name}.qkv", x)
    q, k, v = qkv[:, :width], qkv[:, width : 2 * width], qkv[:, 2 * width :]
    updates = [
        softmax(q[:, cut] @ k[:, cut].T * (width / num_heads) ** -0.5) @ v[:, cut]
        for cut in head_channels(width, num_heads)
    ]
    return linear(state, f"{name}.proj", torch.cat(updates, dim=1))


def vit_block(state: State, name: str, compressed: Tensor, num_heads: int) -> Tensor:
    """Algorithm 3, ViTBlock: (M, D) -> (M, D)."""
    normed = layer_norm(state, f"{name}.norm1", compressed)
    compressed = compressed + self_attention(state, f"{name}.attn", normed, num_heads)  # lines 1, 2
    return compressed + mlp(state, f"{name}.mlp", layer_norm(state, f"{name}.norm2", compressed))  # line 3


def lookupvit_block(
    state: State,
    name: str,
    compressed: Tensor,
    lookup: Tensor,
    num_heads: int,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Algorithm 4, LookupViTBlock: both streams, and the K attentions (M, N) of its gathering."""
    update, attentions = gather(
        state,
        f"{name}.gather",
        layer_norm(state, f"{name}.norm_compressed", compressed),
        layer_norm(state, f"{name}.norm_lookup", lookup),
        num_heads,
    )
    compressed = compressed + update  # line 1
    compressed = vit_block(state, f"{name}.refine", compressed, num_heads)  # line 2
    # LN(z_l) of line 3 is only what Algorithm 2 would add to; the addition goes to z_l itself.
    normed = layer_norm(state, f"{name}.norm_infuse", compressed)
    lookup = lookup + infuse(state, f"{name}.infuse", normed, attentions)  # line 3
    lookup = lookup + mlp(state, f"{name}.mlp", layer_norm(state, f"{name}.norm_mlp", lookup))  # line 4
    return compressed, lookup, attentions


# The whole


def tokens(
    state: State,
    pixels: Tensor,
    budget: int,
    num_heads: int,
    patch_size: int,
    native_grid: tuple[int, int],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Pixels (B, 3, H, W) -> compressed (B, M, D) and lookup (B, N, D), both after their final norms, and the gather
    attentions of every block, each (B, K, M, N)."""
    state = {name: value.double() for name, value in state.items()}
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    grid = (pixels.shape[2] // patch_size, pixels.shape[3] // patch_size)
    shrink = resize_matrix(grid, (budget, budget))  # T: (M, N)
    position = positions(state, grid, native_grid)
    per_image = []
    for image in pixels.double():
        features = patch_features(state, image, patch_size)
        compressed = shrink @ features + shrink @ position  # equations 1, 2 and 3
        lookup = features + position  # equations 2 and 4
        attentions = []
        for block in range(depth):
            compressed, lookup, attention = lookupvit_block(state, f"blocks.{block}", compressed, lookup, num_heads)
            attentions.append(torch.stack(attention))
        per_image.append((layer_norm(state, "norm", compressed), layer_norm(state, "norm_lookup", lookup), attentions))
    return (
        torch.stack([compressed for compressed, _, _ in per_image]),
        torch.stack([lookup for _, lookup, _ in per_image]),
        [torch.stack([attentions[block] for _, _, attentions in per_image]) for block in range(depth)],
    )


def heads(state: State, compressed: Tensor, lookup: Tensor) -> tuple[Tensor, Tensor]:
    """Section 3.4: each stream's mean through its own classifier, (B, C) twice."""
    state = {name: value.double() for name, value in state.items()}
    return (
        linear(state, "head", compressed.sum(dim=1) / compressed.shape[1]),
        linear(state, "head_lookup", lookup.sum(dim=1) / lookup.shape[1]),
    )


def logits(
    state: State,
    pixels: Tensor,
    budget: int,
    num_heads: int,
    patch_size: int,
    native_grid: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """The logits of both heads, (B, C) twice; the model's answer is their average."""
    compressed, lookup, _ = tokens(state, pixels, budget, num_heads, patch_size, native_grid)
    return heads(state, compressed, lookup)
