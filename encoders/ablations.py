"""Table 5 of the LookupViT paper: the model with one part taken away.

    create_encoder("lookupvit_mini_patch8_96", infusion=False)      # any registered LookupViT, and hybrids

| switch | Table 5 | what changes |
| --- | --- | --- |
| lookup_tokens=False | no lookup tokens | the compressed tokens go through ViT blocks alone |
| infusion=False | no MHBC p->l | lookup tokens stay as they were embedded, without their MLP |
| learned_tokens=True | random primary tokens | learned compressed tokens, of one budget, replace resized ones |
| streams=("compressed",) | no loss on lookup tokens | only the compressed tokens have a head |
| streams=("lookup",) | no loss on compressed tokens | only the lookup tokens have a head, and a decoder reads them |

Learned tokens without infusion are a Perceiver (arXiv 2103.03206), layer by layer.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
from timm.layers import DropPath

from .cross_attention import Gather, LayerNorm
from .errors import EncoderError
from .lookupvit import HEADS, LookupViT, refine_block

SWITCHES = ("lookup_tokens", "infusion", "learned_tokens", "streams")


class BlockWithoutInfusion(nn.Module):
    """Gathers and refines (Algorithm 4, lines 1 and 2); arguments as for `LookupViTBlock`."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        lookup_mlp_ratio: float,
        qkv_bias: bool,
        proj_drop: float,
        attn_drop: float,
        drop_path: float,
    ):
        super().__init__()
        self.norm_compressed = LayerNorm(dim)
        self.norm_lookup = LayerNorm(dim)
        self.gather = Gather(dim, num_heads, qkv_bias=qkv_bias, attn_drop=attn_drop, proj_drop=proj_drop)
        self.refine = refine_block(dim, num_heads, mlp_ratio, qkv_bias, proj_drop, attn_drop, drop_path)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, compressed: torch.Tensor, lookup: torch.Tensor, infuse: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """As `LookupViTBlock`; the lookup tokens (B, N, D) are returned unchanged."""
        gathered, attn = self.gather(self.norm_compressed(compressed), self.norm_lookup(lookup))
        return self.refine(compressed + self.drop_path(gathered)), lookup, attn


class BlockWithoutLookup(nn.Module):
    """Refines only (Algorithm 4, line 2): a ViT block; arguments as for `LookupViTBlock`."""

    def __init__(self, lookup_mlp_ratio: float, **refine: Any):
        super().__init__()
        self.refine = refine_block(**refine)

    def forward(
        self, compressed: torch.Tensor, lookup: torch.Tensor, infuse: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """As `LookupViTBlock`; the lookup tokens (B, N, D) are returned unchanged, and there is no attention."""
        return self.refine(compressed), lookup, None


class AblatedLookupViT(LookupViT):
    """LookupViT with switches. With all of them at their defaults it is LookupViT.

    Args:
        lookup_tokens: False removes gathering and infusion.
        infusion: False removes infusion and the lookup tokens' MLP.
        learned_tokens: True replaces the resized compressed tokens by learned ones, of the default budget only.
        streams: Streams that are classified: "compressed", "lookup" or both.
        budget: Default s.
        budgets: Values of s that the model is meant for; with learned tokens, `budget` alone.
        kwargs: Other arguments of `LookupViT`.

    Raises:
        EncoderError: The switches contradict one another.
    """

    def __init__(
        self,
        lookup_tokens: bool = True,
        infusion: bool = True,
        learned_tokens: bool = False,
        streams: Sequence[str] = tuple(HEADS),
        budget: int = 5,
        budgets: Sequence[int] = (3, 5, 7, 10),
        **kwargs: Any,
    ):
        if not streams or not set(streams) <= HEADS.keys():
            raise EncoderError(f'streams {streams!r}: name "compressed", "lookup" or both')
        if learned_tokens and not lookup_tokens:
            raise EncoderError("learned compressed tokens without lookup tokens would never see the image")
        infusion = infusion and lookup_tokens
        if not infusion and "compressed" not in streams:
            raise EncoderError("without infusion there is nothing to classify the lookup tokens by")
        # `LookupViT.__init__` reads these two. Plain values may be set before it.
        self.streams = tuple(streams) if infusion else ("compressed",)
        if not infusion:
            self.block_class = BlockWithoutInfusion if lookup_tokens else BlockWithoutLookup
        super().__init__(budget=budget, budgets=(budget,) if learned_tokens else tuple(budgets), **kwargs)
        self.gathers = lookup_tokens
        self.has_choice = not learned_tokens
        self.learned_tokens = None
        if learned_tokens:
            self.learned_tokens = nn.Parameter(torch.randn(1, budget**2, self.embed_dim) * self.embed_dim**-0.5)
        for module in self._unread():
            module.requires_grad_(False)

    def _unread(self) -> list[nn.Module]:
        """Layers that no loss reaches. If they were trained, several processes would wait for their gradients."""
        if "compressed" not in self.streams:
            return [self.norm]
        if "lookup" in self.streams:
            return []
        last = self.blocks[-1]
        names = ("norm_infuse", "infuse", "norm_mlp", "mlp")
        return [self.norm_lookup, *(getattr(last, name) for name in names if hasattr(last, name))]

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | ({"learned_tokens"} if self.learned_tokens is not None else set())

    def token_count(self, budget: int, size: int) -> int:
        return budget**2 if "compressed" in self.streams else self.grid_side(size) ** 2

    def compress(self, features: torch.Tensor, pos: torch.Tensor, side: int) -> torch.Tensor:
        if self.learned_tokens is None:
            return super().compress(features, pos, side)
        return self.learned_tokens.repeat(features.shape[0], 1, 1)

    def forward_tokens(self, x: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        """What a decoder reads: the compressed tokens (B, M, D); where only the lookup tokens are classified, those
        (B, N, D), whatever the budget."""
        if "compressed" in self.streams:
            return super().forward_tokens(x, budget)
        return self.norm_lookup(self.forward_streams(x, budget)[1])


def is_ablated(arguments: dict[str, Any]) -> bool:
    """Whether a model's arguments name one of Table 5's switches."""
    return any(switch in arguments for switch in SWITCHES)
