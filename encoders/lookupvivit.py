"""LookupViViT: LookupViT on clips of videos; and ViViT, which it is compared with.

LookupViT, arXiv 2407.12753: section 3.2 (a third dimension, time), section 4 "Video classification", Tables 4 and 7.
ViViT: A. Arnab et al., "ViViT: A video vision transformer", ICCV 2021, arXiv 2103.15691: section 3.2 (tubelets) and
its Model 1, attention over all tokens of space and time.

    model = timm.create_model("lookupvivit_base_patch16x2_224", num_classes=400)    # after `import encoders`
    logits = model(clips)                                                           # (B, 3, 32, 224, 224) -> (B, 400)
    tokens = model.forward_tokens(clips, budget=(9, 16))                            # (B, 9 * 9 * 16, 768)

A tubelet, a patch in several frames, makes a lookup token, by a 3-D convolution. The grid of lookup tokens and their
positional embedding are resized in space and time to s x s x t compressed tokens. From there on all is LookupViT's own.

Budgets: the paper's 9x9x8 is the pair (s, t) = (9, 8). A budget s alone, as everywhere else in vlcap, takes the model's
own t, its argument `time_budget`.

Where the paper is silent: T resizes linearly along each axis, antialiased where it shrinks, as for photos. For clips of
another size, positions are resampled as timm does it within each step of time, and then linearly over time.

Legend of shapes
    B: clips   T: frames   S: image in pixels   u: frames of a tubelet
    t', h, w: lookup grid, T / u, S / patch, S / patch   N = t' h w: lookup tokens   s, t: budget
    M = s * s * t: compressed tokens   D: embed_dim
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from timm.layers import resample_abs_pos_embed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from .errors import EncoderError
from .interface import TokenEncoder
from .lookupvit import LookupViT, resize_grid
from .preprocessing import SMALL_IMAGE, augreg_cfg
from .sizes import sized
from .vit import PatchViT


def resize_clip(grid: torch.Tensor, side: int, time: int) -> torch.Tensor:
    """T of equation 1 in three dimensions: (B, t', h, w, D) -> (B, t * s * s, D), time step by time step."""
    steps = resize_grid(grid.flatten(0, 1), (side, side)).unflatten(0, grid.shape[:2])  # (B, t', s * s, D)
    return resize_grid(steps, (time, side * side))  # its second axis keeps its length, and so its values


def resample_positions(pos: torch.Tensor, old: Sequence[int], new: Sequence[int]) -> torch.Tensor:
    """A positional embedding (1, N, D) of a grid (t', h, w) for a new grid."""
    spatial = {"new_size": list(new[1:]), "old_size": list(old[1:]), "num_prefix_tokens": 0}
    steps = [resample_abs_pos_embed(step, **spatial) for step in pos.unflatten(1, tuple(old)).flatten(2, 3).unbind(1)]
    return resize_grid(torch.stack(steps, dim=1), (new[0], new[1] * new[2]))


class TubeletEmbed(nn.Module):
    """Clips (B, 3, T, S, S) -> lookup grid (B, t', h, w, D), in the place of timm's `PatchEmbed`.

    Args:
        img_size: S.
        patch_size: Side of a patch in pixels.
        in_chans: Channels of a frame.
        embed_dim: D.
        frames: T.
        tubelet: u.
        flatten: Whether to return a sequence (B, N, D).
        unused: What timm's ViTs tell a `PatchEmbed` about its patches.

    Raises:
        EncoderError: The frames are not a multiple of the tubelet.
    """

    def __init__(
        self,
        img_size: int,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        frames: int,
        tubelet: int,
        flatten: bool = False,
        **unused: Any,
    ):
        super().__init__()
        self.patch_size, self.frames, self.tubelet, self.flatten = (patch_size, patch_size), frames, tubelet, flatten
        size = (tubelet, patch_size, patch_size)
        self.proj = nn.Conv3d(in_chans, embed_dim, kernel_size=size, stride=size)
        self.set_input_size(img_size)

    def set_input_size(self, img_size: int) -> None:
        steps, (side, rest) = self.steps(self.frames), divmod(img_size, self.patch_size[0])
        if rest:
            raise EncoderError(f"{img_size} pixels are not a multiple of the patch size {self.patch_size[0]}")
        self.img_size = (img_size, img_size)
        self.grid_size, self.num_patches = (steps, side, side), steps * side * side

    def steps(self, frames: int) -> int:
        """t' for clips of so many frames."""
        steps, rest = divmod(frames, self.tubelet)
        if rest or not steps:
            raise EncoderError(f"{frames} frames are not a multiple of the tubelet of {self.tubelet} frames")
        return steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 5:
            raise EncoderError(f"clips (B, 3, T, S, S) are wanted, not pixels of the shape {tuple(x.shape)}")
        self.steps(x.shape[2])
        grid = self.proj(x).permute(0, 2, 3, 4, 1)
        return grid.flatten(1, 3) if self.flatten else grid


class LookupViViT(LookupViT):
    """LookupViT on clips.

    Args:
        frames: T that the positional embedding is made for; it is resampled for clips of other lengths.
        tubelet: u.
        time_budget: t, compressed tokens over time where a budget does not say.
        img_size: S that the positional embedding is made for.
        patch_size: Side of a patch in pixels.
        kwargs: Other arguments of `LookupViT`.

    Raises:
        EncoderError: The arguments do not fit together.
    """

    starts_from = None
    gathers = False  # its maps are of space and time; what draws maps draws them over a photo

    def __init__(
        self,
        frames: int = 32,
        tubelet: int = 2,
        time_budget: int = 8,
        img_size: int = 224,
        patch_size: int = 16,
        **kwargs: Any,
    ):
        embed = partial(TubeletEmbed, patch_size=patch_size, frames=frames, tubelet=tubelet)
        super().__init__(img_size=img_size, embed_layer=embed, **kwargs)
        self.frames, self.time_budget = frames, time_budget
        self._check_time(time_budget, self.patch_embed.grid_size[0])

    def check_budget(self, budget: Any, grid: Sequence[int] | None = None) -> Any:
        """The budget (s, t) to use, of a clip whose lookup grid is (t', h, w).

        Raises:
            EncoderError: s is not a whole number from 1 to the short side of the grid, or t from 1 to t'.
        """
        side, time = budget if isinstance(budget, (tuple, list)) and len(budget) == 2 else (budget, self.time_budget)
        side = super().check_budget(side, grid and grid[1:])
        self._check_time(time, grid[0] if grid else self.patch_embed.grid_size[0])
        return side, time

    @staticmethod
    def _check_time(time: Any, most: int) -> None:
        if isinstance(time, bool) or not isinstance(time, int) or not 1 <= time <= most:
            raise EncoderError(
                f"{time!r} compressed tokens over time do not fit: a whole number from 1 to {most} for this clip"
            )

    def compress(self, features: torch.Tensor, pos: torch.Tensor, side: Any) -> torch.Tensor:
        """Features (B, t', h, w, D), positions (1, t', h, w, D) and a budget (s, t) -> compressed tokens (B, M, D)."""
        return resize_clip(features, *side) + resize_clip(pos, *side)

    def resample_positions(self, pos: torch.Tensor, old: Sequence[int], new: Sequence[int]) -> torch.Tensor:
        return resample_positions(pos, old, new)

    def token_count(self, budget: Any, size: int) -> int:
        side, time = self.check_budget(budget, (self.patch_embed.grid_size[0], *[self.grid_side(size)] * 2))
        return side**2 * time


class ViViT(TokenEncoder, PatchViT):
    """ViViT's Model 1, without class token: a ViT's blocks on the tokens of all tubelets; their mean is classified.

    Args:
        frames: T.
        tubelet: u.
        kwargs: Other arguments of timm's `VisionTransformer`.
    """

    pos_embed: Any

    def __init__(self, frames: int = 32, tubelet: int = 2, **kwargs: Any):
        super().__init__(embed_layer=partial(TubeletEmbed, frames=frames, tubelet=tubelet, flatten=True), **kwargs)
        self.frames = frames
        self._describe()

    def _describe(self) -> None:
        self.budget = self.patch_embed.grid_size[1]
        self.budgets = (self.budget,)

    def grid_side(self, size: int) -> int:
        if size != self.patch_embed.img_size[0]:
            raise EncoderError(f"it reads images of {self.patch_embed.img_size[0]} pixels, not of {size}")
        return self.budget

    def token_count(self, budget: int, size: int) -> int:
        return self.patch_embed.num_patches

    @torch.jit.ignore
    def set_input_size(self, img_size: int) -> None:
        old = self.patch_embed.grid_size
        self.patch_embed.set_input_size(img_size)
        self.pos_embed = nn.Parameter(resample_positions(self.pos_embed.data, old, self.patch_embed.grid_size))
        self._describe()

    def forward_tokens(self, x: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        self.check_budget(budget)
        own = (self.frames, *self.patch_embed.img_size)
        if tuple(x.shape[2:]) != own:
            raise EncoderError(f"it reads clips of {'x'.join(map(str, own))}, not of {'x'.join(map(str, x.shape[2:]))}")
        return self.forward_features(x)

    def forward_pooled(self, x: torch.Tensor, budget: int | None = None) -> tuple[torch.Tensor, ...]:
        return (self.forward_head(self.forward_tokens(x, budget), pre_logits=True),)

    def forward(self, x: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        return self.forward_head(self.forward_tokens(x, budget))


_cfg = partial(augreg_cfg, first_conv="patch_embed.proj")
_lookup = partial(
    _cfg,
    fixed_input_size=False,
    classifier=("head", "head_lookup"),
    paper_ids="arXiv:2407.12753",
    paper_name="LookupViT: Compressing visual information to a limited number of tokens",
)
_vivit = partial(_cfg, classifier="head", paper_ids="arXiv:2103.15691", paper_name="ViViT: A video vision transformer")
TEST_IMAGE = {**SMALL_IMAGE, "input_size": (3, 48, 48)}
TEST_CLIP = {"frames": 8, "tubelet": 2}

default_cfgs = generate_default_cfgs(
    {
        "lookupvivit_base_patch16x2_224": _lookup(),
        "lookupvivit_mini_patch8x2_96": _lookup(**SMALL_IMAGE),
        "lookupvivit_test_patch8x2_48": _lookup(**TEST_IMAGE),
        "vivit_base_patch16x2_224": _vivit(),
        "vivit_mini_patch8x2_96": _vivit(**SMALL_IMAGE),
        "vivit_test_patch8x2_48": _vivit(**TEST_IMAGE),
    }
)


@register_model
def lookupvivit_base_patch16x2_224(pretrained: bool = False, **kwargs: Any) -> LookupViViT:
    """LookupViViT-B/16x2, the paper's size: 32 frames, 3,136 lookup tokens; 9x9x8 compressed tokens unless asked."""
    arguments = sized("base", kwargs, budget=9, budgets=(8, 9))
    return build_model_with_cfg(LookupViViT, "lookupvivit_base_patch16x2_224", pretrained, **arguments)


@register_model
def lookupvivit_mini_patch8x2_96(pretrained: bool = False, **kwargs: Any) -> LookupViViT:
    """For short clips of small frames: 16 frames, 1,152 lookup tokens."""
    arguments = sized("mini", kwargs, frames=16, time_budget=4, budgets=(3, 5, 7))
    return build_model_with_cfg(LookupViViT, "lookupvivit_mini_patch8x2_96", pretrained, **arguments)


@register_model
def lookupvivit_test_patch8x2_48(pretrained: bool = False, **kwargs: Any) -> LookupViViT:
    """For tests and `--smoke`: 8 frames, 144 lookup tokens."""
    arguments = sized("test", kwargs, **TEST_CLIP, time_budget=2, budget=3, budgets=(2, 3))
    return build_model_with_cfg(LookupViViT, "lookupvivit_test_patch8x2_48", pretrained, **arguments)


@register_model
def vivit_base_patch16x2_224(pretrained: bool = False, **kwargs: Any) -> ViViT:
    """ViViT-B/16x2 of 32 frames: 3,136 tokens."""
    return build_model_with_cfg(ViViT, "vivit_base_patch16x2_224", pretrained, **sized("base", kwargs))


@register_model
def vivit_mini_patch8x2_96(pretrained: bool = False, **kwargs: Any) -> ViViT:
    """ViViT of LookupViViT mini's size: 1,152 tokens."""
    return build_model_with_cfg(ViViT, "vivit_mini_patch8x2_96", pretrained, **sized("mini", kwargs, frames=16))


@register_model
def vivit_test_patch8x2_48(pretrained: bool = False, **kwargs: Any) -> ViViT:
    """For tests and `--smoke`: 144 tokens."""
    return build_model_with_cfg(ViViT, "vivit_test_patch8x2_48", pretrained, **sized("test", kwargs, **TEST_CLIP))
