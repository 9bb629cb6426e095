"""A plain, slow LookupViViT to test the fast one against: arXiv 2407.12753, section 3.2 and "Video classification".

As reference_lookupvit.py, whose blocks it calls: pure functions over a state dict, in float64, with loops. What a clip
has of its own is written out here: tubelets, and the resize in space and time.
Used by `pytest tests/encoders/test_lookupvivit.py`.

Legend of shapes
    B: clips   N: lookup tokens   M = s * s * t: compressed tokens   D: channels   K: heads
"""

import torch
from torch import Tensor

from tests.support.reference_lookupvit import State, layer_norm, lookupvit_block, resize_weights


def tubelet_features(state: State, clip: Tensor, patch: int, tubelet: int) -> Tensor:
    """One clip (3, T, H, W) -> (N, D): step of time by step of time, then row by row."""
    weight = state["patch_embed.proj.weight"]
    _, frames, height, width = clip.shape
    tubelets = [
        clip[:, start : start + tubelet, top : top + patch, left : left + patch].reshape(-1)
        for start in range(0, frames, tubelet)
        for top in range(0, height, patch)
        for left in range(0, width, patch)
    ]
    return torch.stack(tubelets) @ weight.reshape(weight.shape[0], -1).T + state["patch_embed.proj.bias"]


def resize_matrix(grid: tuple[int, int, int], new_grid: tuple[int, int, int]) -> Tensor:
    """T over flattened grids (time, rows, columns): a product of one triangle filter per axis."""
    axes = [resize_weights(size, new_size) for size, new_size in zip(grid, new_grid, strict=True)]
    return torch.tensor(
        [
            [time * row * column for time in times for row in rows for column in columns]
            for times in axes[0]
            for rows in axes[1]
            for columns in axes[2]
        ],
        dtype=torch.float64,
    )


def tokens(
    state: State, clips: Tensor, budget: tuple[int, int], num_heads: int, patch: int, tubelet: int
) -> tuple[Tensor, Tensor]:
    """Clips (B, 3, T, S, S) of the embedding's own size -> compressed (B, M, D) and lookup tokens (B, N, D), after
    their final norms; budget is (s, t)."""
    state = {name: value.double() for name, value in state.items()}
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    _, _, frames, height, width = clips.shape
    grid = (frames // tubelet, height // patch, width // patch)
    side, time = budget
    shrink = resize_matrix(grid, (time, side, side))
    position = state["pos_embed"][0]
    found = []
    for clip in clips.double():
        features = tubelet_features(state, clip, patch, tubelet)
        compressed, lookup = shrink @ features + shrink @ position, features + position
        for block in range(depth):
            compressed, lookup, _ = lookupvit_block(state, f"blocks.{block}", compressed, lookup, num_heads)
        found.append((layer_norm(state, "norm", compressed), layer_norm(state, "norm_lookup", lookup)))
    return torch.stack([each for each, _ in found]), torch.stack([each for _, each in found])
