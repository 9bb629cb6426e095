"""Fewer tokens from any plain timm ViT, pretrained or not: pooling, ToMe and EViT.

    encoder = create_encoder("tome_base_patch16_224", r=13)
    encoder = create_encoder("evit_small_patch16_224", vit="vit_small_patch16_224.augreg_in21k", pretrained=True)

- Pooling averages the last tokens over an s x s grid; the budget is free in every step (TokenFLEX, arXiv 2504.03154).
- ToMe merges r tokens a block, the most similar ones, by bipartite matching (D. Bolya et al., arXiv 2210.09461).
- EViT keeps the tokens that the class token attends to most, and fuses the others into one (Y. Liang et al., arXiv
  2202.07800).

The weights are the ViT's, under timm's names; nothing is added. With r = 0 or keep_rate = 1, the model equals the ViT.

Here the number of tokens follows from an argument, r or the keep rate; timm_encoders.py has the same with any budget.

Legend of shapes
    B: batch   N: tokens   P: class and register tokens   H: attention heads   D: width   s: budget
"""

import math
from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer

from .budgeted import Pooled
from .errors import EncoderError
from .interface import TimmEncoder


class ReducedViT(TimmEncoder):
    """A timm ViT whose tokens are reduced. Subclasses say how.

    Args:
        vit: timm's name of the ViT.
        vit_pretrained: Whether timm's weights are loaded.
        kwargs: Arguments of the ViT.

    Raises:
        EncoderError: There is no such model, or it is not a ViT of plain blocks.
    """

    def __init__(self, vit: str, vit_pretrained: bool = False, **kwargs: Any):
        if not isinstance(vit, str) or not timm.is_model(vit):  # else timm might take it for something to download
            raise EncoderError(f"vit {vit!r:.100} is not a timm model")
        try:
            model = timm.create_model(vit, pretrained=vit_pretrained, **kwargs)
        except TypeError as error:
            raise EncoderError(f"vit {vit} cannot be made: {error}") from error
        blocks = getattr(model, "blocks", [])
        plain = isinstance(model, VisionTransformer) and (
            type(model).forward_features is VisionTransformer.forward_features  # ViTTM and TokenLearner have their own
        )
        if not plain or not all(type(block) is Block and type(block.attn) is Attention for block in blocks):
            raise EncoderError(f"the tokens of {vit} cannot be reduced: it is not a ViT of plain blocks")
        super().__init__(model, model.patch_embed.img_size[0])

    @property
    def kind(self) -> str:
        return type(self).__name__

    def forward_blocks(self, x: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        """Tokens (B, N, D) through all blocks -> (B, fewer, D)."""
        return self.wrapped.blocks(x)

    def forward_features(self, x: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        """Pixels (B, 3, S, S) -> the remaining tokens, normalized: (B, P + fewer, D)."""
        vit = self.wrapped
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x))))
        return vit.norm(self.forward_blocks(x, budget))

    def attend(self, block: Block, x: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """timm's attention of a block's normalized input (B, N, D), with its queries and keys.

        Args:
            block: The block.
            x: Its normalized input.
            bias: Added to the attention's logits; (B, 1, 1, N).

        Returns:
            The attention's output (B, N, D), queries and keys (B, H, N, D / H).
        """
        attn = block.attn
        qkv = attn.qkv(x).unflatten(2, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = attn.q_norm(q), attn.k_norm(k)
        drop = attn.attn_drop.p if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=drop)
        out = attn.norm(out.transpose(1, 2).flatten(2))
        if attn.gate is not None:
            out = out * attn.gate(x).sigmoid()
        return attn.proj_drop(attn.proj(out)), q, k


class OneBudget(ReducedViT):
    """A ReducedViT whose number of tokens follows from its arguments.

    Its tokens are no grid. Its budget, which names it in tables, is the side of the smallest grid that holds them.
    """

    def _describe(self) -> None:
        super()._describe()
        self.patches = self.budget**2
        kept = self._remaining(self.patches)
        self.budget = math.isqrt(max(kept - 1, 0)) + 1

    def _remaining(self, patches: int) -> int:
        """Tokens left of so many patches, without the prefix."""
        raise NotImplementedError

    def token_count(self, budget: int, size: int) -> int:
        return self._remaining(self.patches) + self.prefix_tokens


class PoolingViT(Pooled, ReducedViT):
    """The last patch tokens, averaged over an s x s grid. Class and register tokens are dropped.

    The classifier is the ViT's own, whatever the budget: pooling changes only what a decoder reads.

    Args:
        budget: Default s.
        budgets: Values of s that it is compared at, and that training draws from.
        kwargs: As for `ReducedViT`.
    """

    def __init__(self, budget: int = 5, budgets: Sequence[int] = (3, 5, 7, 10), **kwargs: Any):
        super().__init__(**kwargs)
        self.choose(budget, budgets)


class TokenMerging(ReducedViT):
    """Token merging (arXiv 2210.09461, section 3). Merging happens between a block's attention and its MLP."""

    def merges(self, patches: int, budget: int | None) -> list[int]:
        """Number of tokens to merge in each block, for so many patches before the first."""
        raise NotImplementedError

    def forward_blocks(self, x: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        size = x.new_ones(x.shape[0], x.shape[1], 1)  # patches in each token; len() would fix the batch in exports
        merges = self.merges(x.shape[1] - self.prefix_tokens, budget)
        for block, r in zip(self.wrapped.blocks, merges, strict=True):
            # Proportional attention, section 3.2: a token counts as often as there are patches in it.
            out, _, keys = self.attend(block, block.norm1(x), size.log().transpose(1, 2).unsqueeze(1))
            x = x + block.drop_path1(block.ls1(out))
            x, size = self._merge(x, size, keys.detach().mean(dim=1), r)
            x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        return x

    def _merge(
        self, x: torch.Tensor, size: torch.Tensor, keys: torch.Tensor, r: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Bipartite soft matching: tokens (B, N, D), sizes (B, N, 1), mean keys (B, N, d) -> (B, N - r, D), sizes.

        Tokens alternate between the sets A and B, of which the prefix stays out. Each of A is matched with the most
        similar of B, and the r most similar pairs are merged: a token is the mean of its patches.
        """
        if r == 0:
            return x, size
        prefix = self.prefix_tokens
        start = prefix % 2  # the first token of all would be in A
        in_a, in_b = slice(prefix + start, None, 2), slice(prefix + 1 - start, None, 2)
        unit = F.normalize(keys, dim=2)
        best, match = (unit[:, in_a] @ unit[:, in_b].transpose(1, 2)).max(dim=2)  # (B, A)
        order = best.argsort(dim=1, descending=True)
        merged, kept = order[:, :r], order[:, r:].sort(dim=1).values
        into = match.gather(1, merged)

        def merge(each: torch.Tensor) -> torch.Tensor:
            first, a, b = each[:, :prefix], each[:, in_a], each[:, in_b]
            width = (-1, -1, each.shape[2])
            b = b.scatter_add(1, into.unsqueeze(2).expand(width), a.gather(1, merged.unsqueeze(2).expand(width)))
            return torch.cat([first, a.gather(1, kept.unsqueeze(2).expand(width)), b], dim=1)

        total = merge(size)
        return merge(x * size) / total, total


class ToMeViT(OneBudget, TokenMerging):
    """Token merging with the same r in all blocks.

    Args:
        r: Tokens to merge in each block; at most half of the patches that are left.
        kwargs: As for `ReducedViT`.

    Raises:
        EncoderError: r is negative.
    """

    def __init__(self, r: int = 13, **kwargs: Any):
        if isinstance(r, bool) or not isinstance(r, int) or r < 0:
            raise EncoderError(f"r is {r!r}: it is the number of tokens to merge in each block, 0 or more")
        self.__dict__["r"] = r
        super().__init__(**kwargs)

    def merges(self, patches: int, budget: int | None) -> list[int]:
        found = []
        for _ in self.wrapped.blocks:
            found.append(min(self.r, patches // 2))
            patches -= found[-1]
        return found

    def _remaining(self, patches: int) -> int:
        return patches - sum(self.merges(patches, None))


class TokenFusing(ReducedViT):
    """Token reorganisation by attentiveness (arXiv 2202.07800, section 3), after the attention of some blocks.

    The paper's measure is the class token's attention, averaged over heads. Without a class token, ours is the
    attention that a token gets from all tokens, averaged.
    """

    reduce_at: Sequence[int] | None = None  # blocks, counted from 0

    def reduces(self) -> list[int]:
        """The blocks that reduce: without `reduce_at`, those after 1/4, 1/2 and 3/4 of the depth."""
        depth = len(self.wrapped.blocks)
        chosen = self.reduce_at if self.reduce_at is not None else (depth // 4, depth // 2, 3 * depth // 4)
        return sorted({*chosen} & {*range(depth)})

    def keeps(self, patches: int, budget: int | None) -> dict[int, int]:
        """Block -> number of tokens that stay in it beside the fused one; other blocks leave all tokens."""
        raise NotImplementedError

    def forward_blocks(self, x: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        keeps = self.keeps(x.shape[1] - self.prefix_tokens, budget)
        for i, block in enumerate(self.wrapped.blocks):
            if i not in keeps:
                x = block(x)
                continue
            out, q, k = self.attend(block, block.norm1(x), None)
            x = x + block.drop_path1(block.ls1(out))
            x = self._reorganise(x, q, k, block.attn.scale, keeps[i])
            x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        return x

    def _reorganise(self, x: torch.Tensor, q: torch.Tensor, k: torch.Tensor, scale: float, kept: int) -> torch.Tensor:
        """Tokens (B, N, D), queries and keys (B, H, N, D / H) -> (B, P + kept + 1, D)."""
        prefix = self.prefix_tokens
        asking = q[:, :, :1] if self.wrapped.has_class_token else q
        received = (asking * scale @ k.transpose(2, 3)).softmax(dim=3).mean(dim=(1, 2))[:, prefix:]  # (B, N - P)
        order = received.argsort(dim=1, descending=True)
        first, others = x[:, :prefix], x[:, prefix:]
        stay = order[:, :kept].sort(dim=1).values.unsqueeze(2).expand(-1, -1, x.shape[2])
        left = order[:, kept:]
        # The sum of the paper's section 3.2: its weights are the attention as it is, and do not sum to one.
        weights = received.gather(1, left).unsqueeze(1)  # (B, 1, N - P - kept)
        fused = weights @ others.gather(1, left.unsqueeze(2).expand(-1, -1, x.shape[2]))
        return torch.cat([first, others.gather(1, stay), fused], dim=1)


class EViT(OneBudget, TokenFusing):
    """Token reorganisation with a keep rate.

    Args:
        keep_rate: Share of the tokens that stay at each of these blocks, rounded up. The others become one token.
        reduce_at: Blocks that reduce, counted from 0; None for those after 1/4, 1/2 and 3/4 of the depth.
        kwargs: As for `ReducedViT`.

    Raises:
        EncoderError: keep_rate is not above 0 and at most 1.
    """

    def __init__(self, keep_rate: float = 0.7, reduce_at: Sequence[int] | None = None, **kwargs: Any):
        if not isinstance(keep_rate, (int, float)) or not 0 < keep_rate <= 1:
            raise EncoderError(f"keep_rate is {keep_rate!r}: it is the share of tokens to keep, above 0 and at most 1")
        self.__dict__.update(keep_rate=keep_rate, reduce_at=reduce_at)
        super().__init__(**kwargs)

    def keeps(self, patches: int, budget: int | None) -> dict[int, int]:
        found = {}
        for block in self.reduces():
            kept = math.ceil(round(self.keep_rate * patches, 6))  # 0.7 * 10 is 7.000000000000001
            if kept < patches:
                found[block], patches = kept, kept + 1
        return found

    def _remaining(self, patches: int) -> int:
        keeps = self.keeps(patches, None)
        return keeps[max(keeps)] + 1 if keeps else patches
