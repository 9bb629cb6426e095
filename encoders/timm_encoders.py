"""Anyone's pretrained timm model with few tokens: pooling, ToMe, EViT, or LookupViT's blocks over it.

    encoder = create_encoder("timm_pool", base="vit_base_patch16_siglip_224", pretrained=True)
    encoder = create_encoder("timm_tome", base="vit_small_patch14_reg4_dinov2", img_size=224)
    encoder = create_encoder("timm_lookup", trunk="vit_base_patch16_clip_224")
    encoder.forward_tokens(pixels, budget=5)                # (B, 25, D), each of them

All serve any budget s up to the side of the model's grid, and give s x s tokens. `vlcap train captioner --encoder
timm:NAME --reduce pool` makes the first three, and `vlcap train classifier` with `--reduce lookup` the last.

- timm_pool averages the last tokens; for any model with a spatial feature map. timm_tome and timm_evit are for ViTs of
  plain blocks. Nothing is learned. The weights have timm's names.
- timm_lookup takes its lookup tokens from the last feature map (of a hierarchical model: the last two), as hybrids do
  (hybrid.py). Its blocks have to be trained.

Legend of shapes
    B: batch   S: image in pixels   N: patches   D: width   s: budget
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, get_pretrained_cfg, register_model

from .ablations import is_ablated
from .budgeted import Budgeted, Pooled
from .errors import EncoderError
from .hybrid import AblatedHybridLookupViT, HybridLookupViT
from .interface import TimmEncoder, create_encoder
from .preprocessing import trunk_cfg
from .reduction import ReducedViT, TokenFusing, TokenMerging
from .sizes import sized
from .trunk import create_trunk, last_maps

BUDGETS = (3, 5, 7)
DATA = ("mean", "std", "interpolation", "crop_pct", "crop_mode")  # what a pretrained_cfg says of the pixels


class PooledTimm(Pooled):
    """Any timm model with a spatial feature map; pooling leaves s x s tokens.

    Args:
        base: timm's name of the model.
        pretrained: Whether timm's weights are loaded.
        budget: Default s.
        budgets: Values of s that it is compared at, and that training draws from.
        kwargs: Arguments of the model.

    Raises:
        EncoderError: There is no such model, it has no spatial feature map, or it is an encoder of few tokens already.
    """

    def __init__(
        self,
        base: str,
        pretrained: bool = False,
        budget: int = 5,
        budgets: Sequence[int] = BUDGETS,
        **kwargs: Any,
    ):
        made = create_encoder(known(base), pretrained=pretrained, **kwargs)
        if type(made) is not TimmEncoder:
            raise EncoderError(f"the tokens of {base} cannot be pooled: it chooses its tokens itself")
        super().__init__(made.wrapped, made.image_size)
        self.choose(budget, budgets)


class ReducedToBudget(Budgeted, ReducedViT):
    """A ViT whose blocks leave s x s patches' tokens, and any class and register tokens beside them.

    Args:
        base: timm's name of the ViT.
        pretrained: Whether timm's weights are loaded.
        budget: Default s.
        budgets: Values of s that it is compared at, and that training draws from.
        kwargs: Arguments of the ViT.

    Raises:
        EncoderError: There is no such model, or it is not a ViT of plain blocks.
    """

    def __init__(
        self,
        base: str,
        pretrained: bool = False,
        budget: int = 5,
        budgets: Sequence[int] = BUDGETS,
        **kwargs: Any,
    ):
        try:
            super().__init__(known(base), pretrained, **kwargs)
        except EncoderError as error:
            raise EncoderError(f"{error}. Pooling reduces the tokens of any model") from error
        self.choose(budget, budgets)

    def target(self, budget: int | None) -> int:
        """Number of patches' tokens to leave."""
        return (self.budget if budget is None else budget) ** 2

    def forward_tokens(self, x: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        """Pixels (B, 3, S, S) -> tokens (B, s * s, D)."""
        features = self.forward_features(x, self.check_budget(budget))
        return self.wrapped.fc_norm(features)[:, self.prefix_tokens :]

    def forward_pooled(self, x: torch.Tensor, budget: int | None = None) -> tuple[torch.Tensor, ...]:
        features = self.forward_features(x, self.check_budget(budget))
        return (self.wrapped.forward_head(features, pre_logits=True),)

    def forward(self, x: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        return self.wrapped.forward_head(self.forward_features(x, self.check_budget(budget)))


class MergedToBudget(ReducedToBudget, TokenMerging):
    """ToMe with the r that a budget asks for. See `merges_to`."""

    def merges(self, patches: int, budget: int | None) -> list[int]:
        return list(merges_to(patches, self.target(budget), len(self.wrapped.blocks)))

    def check_budget(self, budget: int | None, grid: Sequence[int] | None = None) -> int:
        side = super().check_budget(budget, grid)
        merges_to(self.side**2, side**2, len(self.wrapped.blocks))
        return side


class FusedToBudget(ReducedToBudget, TokenFusing):
    """EViT with the keep rate that a budget asks for. See `left_after`."""

    def keeps(self, patches: int, budget: int | None) -> dict[int, int]:
        found, blocks = {}, self.reduces()
        for block, left in zip(blocks, left_after(patches, self.target(budget), len(blocks)), strict=True):
            if left < patches:
                found[block], patches = left - 1, left
        return found


@lru_cache(maxsize=1024)
def merges_to(patches: int, target: int, blocks: int) -> tuple[int, ...]:
    """How many tokens each block of a ViT merges, so that `target` are left.

    Each block merges r tokens, the same number in all, but at most half of those that are left (arXiv 2210.09461,
    section 3.2), and no more than are too many. r is the smallest number that leads to the target.

    Args:
        patches: Tokens before the first block, without class and register tokens.
        target: Tokens to leave.
        blocks: Number of blocks.

    Raises:
        EncoderError: More would be left even if each block merged half.
    """
    for r in range(patches // 2 + 1):
        left, found = patches, []
        for _ in range(blocks):
            found.append(min(r, left // 2, left - target))
            left -= found[-1]
        if left == target:
            return tuple(found)
    raise EncoderError(
        f"ToMe cannot leave {target} of {patches} tokens: a block merges half of them at most, and there are {blocks} "
        "blocks. Choose a larger budget, or another way to reduce"
    )


def left_after(patches: int, target: int, times: int) -> list[int]:
    """How many tokens each reduction of EViT leaves, the fused one included, the last one exactly `target`.

    Each leaves the same share of the tokens before it, the `times`-th root of target / patches. Numbers are rounded up.

    Args:
        patches: Tokens before the first block, without class and register tokens.
        target: Tokens to leave in the end.
        times: Number of reductions.
    """
    share = (target / patches) ** (1 / times)
    return [*(math.ceil(round(patches * share**time, 6)) for time in range(1, times)), target]


def known(base: Any) -> str:
    """The name of a model, if timm has it; otherwise timm might take the name for something to download or to open.

    Raises:
        EncoderError: It has not.
    """
    if not isinstance(base, str) or not timm.is_model(base):
        raise EncoderError(f"base {base!r:.100} is not a timm model")
    return base


@register_model
def timm_pool(pretrained: bool = False, base: str = "", **kwargs: Any) -> PooledTimm:
    """Any timm model, its last tokens pooled to the budget."""
    return PooledTimm(base, pretrained, **kwargs)


@register_model
def timm_tome(pretrained: bool = False, base: str = "", **kwargs: Any) -> MergedToBudget:
    """A timm ViT whose blocks merge tokens until the budget is reached."""
    return MergedToBudget(base, pretrained, **kwargs)


@register_model
def timm_evit(pretrained: bool = False, base: str = "", **kwargs: Any) -> FusedToBudget:
    """A timm ViT that keeps the tokens which get most attention, down to the budget."""
    return FusedToBudget(base, pretrained, **kwargs)


@register_model
def timm_lookup(
    pretrained: bool = False,
    trunk: str = "",
    trunk_indices: Sequence[int] | None = None,
    trunk_args: dict[str, Any] | None = None,
    **kwargs: Any,
) -> HybridLookupViT:
    """Two LookupViT blocks over the last feature map of any timm model.

    Args:
        pretrained: Whether timm's weights are loaded into the trunk.
        trunk: timm's name of the model.
        trunk_indices: Indices of its feature maps, as for `create_trunk`; None for the last, and the one before it
            where that one is finer.
        trunk_args: Arguments of the model.
        kwargs: Arguments of `LookupViT`.
    """
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):  # timm gives them to every model: None
        kwargs.pop(name, None)
    source, given = get_pretrained_cfg(known(trunk)), trunk_args or {}
    cfg = source.to_dict() if source else {}
    size = kwargs.get("img_size") or cfg.get("input_size", (3, 224, 224))[-1]
    indices = last_maps(trunk, size, **given) if trunk_indices is None else trunk_indices
    arguments = sized("hybrid", {"budgets": BUDGETS, **kwargs, "img_size": size}, trunk=trunk, trunk_indices=indices)
    kind = AblatedHybridLookupViT if is_ablated(arguments) else HybridLookupViT
    layers = {"first_conv": None, "classifier": ("head", "head_lookup")}
    own = trunk_cfg(size, **layers) | {name: cfg[name] for name in DATA if name in cfg}
    model = build_model_with_cfg(kind, "timm_lookup", False, pretrained_cfg=own, trunk_args=given, **arguments)
    if pretrained:
        filled = create_trunk(trunk, indices, img_size=size, pretrained=True, **given)
        model.trunk.load_state_dict(filled.state_dict())
    return model
