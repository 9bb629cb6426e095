"""LookupViT: many cheap lookup tokens, few compressed tokens that do the work.

R. Koner et al., "LookupViT: Compressing visual information to a limited number of tokens", ECCV 2024, arXiv 2407.12753.
Section 3.2 (tokens), section 3.3 with Algorithms 1 to 4 (block), section 3.4 (two heads, joint loss, averaged output).

    model = timm.create_model("lookupvit_base_patch16_224", num_classes=0)   # after `import encoders`
    tokens = model.forward_tokens(pixels, budget=5)                          # (B, 25, 768)

Legend of shapes
    B: batch   H, W: image in pixels   h, w: lookup grid, H / patch and W / patch   N = h * w: lookup tokens
    s: budget, the side of the compressed grid   M = s * s: compressed tokens
    D: embed_dim   K: num_heads   d = D / K   C: num_classes

How the pseudo-code is read, where it leaves a choice:
- Attention is multi-head, each direction with its own output projection; the count of equation 6, (4N + 15M) D^2, holds
  only so. Logits are scaled by d^-0.5, as in ViT. Q, K and the infusion's V are layer-normalised over all D channels,
  after their projection and before the heads are cut.
- Algorithm 1 adds AV to its own, already normalised input, and line 3 of Algorithm 4 adds to z_l what Algorithm 2 has
  added already. We read each step as what ViT does: one residual, around the normalised branch, on the stream itself.
  LN(z_l) of that line then reaches nothing (V comes of z_p, A is given), so it does not exist here.
- Products are taken in the cheaper of two orders that give the same (cross_attention.py); `set_reassociation(False)`
  keeps to the paper's, for counting what it counted.
- T resizes like the authors' framework does: bilinear, antialiased when it shrinks.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, PatchEmbed, calculate_drop_path_rates, lecun_normal_, resample_abs_pos_embed
from timm.models import (
    build_model_with_cfg,
    checkpoint,
    generate_default_cfgs,
    named_apply,
    register_model,
)
from timm.models.vision_transformer import Block

from .budget import check_budget
from .cross_attention import Gather, Infuse, LayerNorm
from .errors import EncoderError
from .preprocessing import MINI, SMALL_IMAGE, augreg_cfg


def resize_grid(grid: torch.Tensor, side: int) -> torch.Tensor:
    """T of equation 1: (B, h, w, D) -> (B, side * side, D), flattened row by row (equation 3)."""
    size = (side, side)
    wide = grid.permute(0, 3, 1, 2).to(torch.promote_types(grid.dtype, torch.float32))  # CPUs resize no bfloat16
    wide = F.interpolate(wide, size=size, mode="bilinear", align_corners=False, antialias=True)
    return wide.flatten(2).transpose(1, 2).to(grid.dtype)


class LookupViTBlock(nn.Module):
    """Gather, refine, infuse (Algorithm 4): 19 D^2 weights, (3NM + 2M^2) D + (4N + 15M) D^2 MACs (equation 6)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        lookup_mlp_ratio: float = 0.5,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        gather: bool = True,
        infuse: bool = True,
    ):
        super().__init__()
        self.gathers, self.infuses = gather, infuse
        if gather:
            self.norm_compressed = LayerNorm(dim)
            self.norm_lookup = LayerNorm(dim)
            self.gather = Gather(dim, num_heads, qkv_bias=qkv_bias, attn_drop=attn_drop, proj_drop=proj_drop)
        self.refine = Block(  # Algorithm 3 is timm's ViT block
            dim=dim,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            proj_drop=proj_drop,
            attn_drop=attn_drop,
            drop_path=drop_path,
            norm_layer=LayerNorm,
        )
        if infuse:
            self.norm_infuse = LayerNorm(dim)
            self.infuse = Infuse(dim, num_heads, qkv_bias=qkv_bias, proj_drop=proj_drop)
            self.norm_mlp = LayerNorm(dim)
            self.mlp = Mlp(in_features=dim, hidden_features=int(dim * lookup_mlp_ratio), drop=proj_drop)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        compressed: torch.Tensor,
        lookup: torch.Tensor,
        infuse: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """One block.

        Args:
            compressed: (B, M, D).
            lookup: (B, N, D).
            infuse: False leaves the lookup tokens as they came, for a last block whose lookup tokens nobody reads.

        Returns:
            The compressed tokens (B, M, D), the lookup tokens (B, N, D) and the gather attention (B, K, M, N).
        """
        attn = None
        if self.gathers:
            gathered, attn = self.gather(self.norm_compressed(compressed), self.norm_lookup(lookup))
            compressed = compressed + self.drop_path(gathered)
        compressed = self.refine(compressed)
        if self.infuses and infuse:
            lookup = lookup + self.drop_path(self.infuse(self.norm_infuse(compressed), attn))
            lookup = lookup + self.drop_path(self.mlp(self.norm_mlp(lookup)))
        return compressed, lookup, attn


class LookupViT(nn.Module):
    """LookupViT encoder and classifier.

    Args:
        img_size: Side of the image that the positional embedding is made for; others are served by resampling it.
        patch_size: Side of a patch.
        in_chans: Channels of the image.
        num_classes: C; 0 for no heads.
        global_pool: 'avg', or '' for unpooled compressed tokens out of `forward_head`.
        embed_dim: D.
        depth: Number of blocks.
        num_heads: K.
        mlp_ratio: p of Algorithm 4, the width of the compressed tokens' MLP over D.
        lookup_mlp_ratio: 1/q of Algorithm 4, the width of the lookup tokens' MLP over D.
        qkv_bias: Bias of the query, key and value projections.
        budget: Default s.
        budgets: The sides that the model is meant for: what it is compared at, what training draws from.
        drop_rate: Dropout before the heads.
        pos_drop_rate: Dropout after the positional embedding.
        proj_drop_rate: Dropout after projections and in MLPs.
        attn_drop_rate: Dropout on attention weights; what `Gather` drops, `Infuse` reuses dropped.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0.
        lookup_tokens: False: the compressed tokens go through the ViT blocks alone (Table 5, "no lookup tokens").
        infusion: False: the lookup tokens stay as they were embedded, MLP and all (Table 5, "no MHBC p->l").
        learned_tokens: True: learned compressed tokens, of the default budget only, in place of resized ones
            (Table 5, "random primary tokens").
        streams: Which are classified: "compressed", "lookup" or both; with one, only its head exists (Table 5,
            "no loss on ...").
        embed_layer: What makes the grid of lookup tokens, from img_size, in_chans and embed_dim; None for patches.

    Raises:
        EncoderError: Arguments that contradict each other.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        lookup_mlp_ratio: float = 0.5,
        qkv_bias: bool = True,
        budget: int = 5,
        budgets: tuple[int, ...] = (3, 5, 7, 10),
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        lookup_tokens: bool = True,
        infusion: bool = True,
        learned_tokens: bool = False,
        streams: tuple[str, ...] = ("compressed", "lookup"),
        embed_layer: Callable[..., nn.Module] | None = None,
    ):
        super().__init__()
        if embed_dim % num_heads:
            raise EncoderError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")
        if not streams or not set(streams) <= {"compressed", "lookup"}:
            raise EncoderError(f'streams {streams!r}: name "compressed", "lookup" or both')
        if learned_tokens and not lookup_tokens:
            raise EncoderError("learned compressed tokens without lookup tokens would never see the image")
        infusion = infusion and lookup_tokens
        if not infusion:  # lookup tokens that stay as they were embedded are not worth classifying
            if "compressed" not in streams:
                raise EncoderError("without infusion there is nothing to classify the lookup tokens by")
            streams = ("compressed",)
        self.num_classes = num_classes
        self.global_pool = global_pool
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.num_prefix_tokens = 0
        self.grad_checkpointing = False
        self.joint_training = False  # see set_joint_training
        self.budget = budget
        self.budgets = (budget,) if learned_tokens else tuple(budgets)

        if embed_layer is None:
            embed_layer = partial(
                PatchEmbed, patch_size=patch_size, strict_img_size=False, flatten=False, output_fmt="NHWC"
            )
        self.patch_embed = embed_layer(img_size=img_size, in_chans=in_chans, embed_dim=embed_dim)
        self.patch_size = self.patch_embed.patch_size[0]
        self.streams = tuple(streams)
        self.learned_tokens = None
        if learned_tokens:
            self.learned_tokens = nn.Parameter(torch.randn(1, budget**2, embed_dim) * embed_dim**-0.5)
        self.feature_info = [
            {"module": f"blocks.{i}", "num_chs": embed_dim, "reduction": self.patch_size} for i in range(depth)
        ]
        self.pos_embed = nn.Parameter(torch.randn(1, self.patch_embed.num_patches, embed_dim) * embed_dim**-0.5)
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self.blocks = nn.ModuleList(
            LookupViTBlock(
                dim=embed_dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                lookup_mlp_ratio=lookup_mlp_ratio,
                qkv_bias=qkv_bias,
                proj_drop=proj_drop_rate,
                attn_drop=attn_drop_rate,
                drop_path=rate,
                gather=lookup_tokens,
                infuse=infusion,
            )
            for rate in calculate_drop_path_rates(drop_path_rate, depth)
        )
        self.norm = LayerNorm(embed_dim)
        self.norm_lookup = LayerNorm(embed_dim)
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)
        named_apply(init_weights, self)
        for module in self._unread():
            module.requires_grad_(False)

    def _unread(self) -> list[nn.Module]:
        """What no loss reaches: several processes would wait for its gradients."""
        unread: list[nn.Module] = []
        if "compressed" not in self.streams:
            unread.append(self.norm)
        if "lookup" not in self.streams:
            last = self.blocks[-1]
            unread.append(self.norm_lookup)
            unread += [last.norm_infuse, last.infuse, last.norm_mlp, last.mlp] if last.infuses else []
        return unread

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {"pos_embed"} if self.learned_tokens is None else {"pos_embed", "learned_tokens"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {
            "stem": r"^pos_embed|^patch_embed|^learned_tokens",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def set_joint_training(self, enable: bool = True) -> None:
        """With it, `forward` in train mode gives both heads' logits for the joint loss (section 3.4)."""
        self.joint_training = enable

    @torch.jit.ignore
    def set_reassociation(self, enable: bool = True) -> None:
        """Without it, products are taken in the paper's order, whatever they cost."""
        for block in self.blocks:
            for name in ("gather", "infuse"):
                if hasattr(block, name):
                    getattr(block, name).reassociate = enable

    @torch.jit.ignore
    def set_input_size(self, img_size: int) -> None:
        """Makes the positional embedding one for images of another size, as timm's ViTs do; `embed` resamples anyway,
        but from then on it is this one that is trained and saved."""
        old = self.patch_embed.grid_size
        self.patch_embed.set_input_size(img_size=img_size)
        self.pos_embed = nn.Parameter(
            resample_abs_pos_embed(
                self.pos_embed.data, new_size=list(self.patch_embed.grid_size), old_size=list(old), num_prefix_tokens=0
            )
        )

    @property
    def has_choice(self) -> bool:
        """Whether it can be asked for another budget than its own."""
        return self.learned_tokens is None

    def grid_side(self, size: int) -> int:
        """Lookup tokens on a side of a square image of `size` pixels.

        Raises:
            EncoderError: The patch doesn't divide it.
        """
        side, rest = divmod(size, self.patch_size)
        if rest:
            raise EncoderError(f"{size} pixels are not a multiple of the patch size {self.patch_size}")
        return side

    def token_count(self, budget: int, size: int) -> int:
        """How many tokens `forward_tokens` gives for a square image of `size` pixels."""
        return budget**2 if "compressed" in self.streams else self.grid_side(size) ** 2

    @torch.jit.ignore
    def get_classifier(self) -> tuple[nn.Module, ...]:
        """The heads that there are, of the compressed and of the lookup tokens."""
        heads = {"compressed": self.head, "lookup": self.head_lookup}
        return tuple(heads[stream] for stream in self.streams)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        for stream, name in (("compressed", "head"), ("lookup", "head_lookup")):
            wanted = num_classes and stream in self.streams
            head = nn.Linear(self.embed_dim, num_classes) if wanted else nn.Identity()
            init_weights(head, name)
            setattr(self, name, head.to(self.pos_embed))

    def embed_grid(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W) -> the grid of lookup tokens (B, h, w, D), before its positional embedding.

        Raises:
            EncoderError: The patch doesn't divide the image.
        """
        height, width = x.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise EncoderError(f"image {height}x{width} is not a multiple of the patch size {self.patch_size}")
        return self.patch_embed(x)

    def embed(self, x: torch.Tensor, budget: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Equations 1 to 4: pixels (B, 3, H, W) -> compressed tokens (B, M, D) and lookup tokens (B, N, D).

        Raises:
            EncoderError: The patch doesn't divide the image, or the budget is outside 1 .. min(h, w).
        """
        features = self.embed_grid(x).contiguous()  # (B, h, w, D); strided, the stream would slow every layer
        grid = features.shape[1:3]
        side = check_budget(self.budget if budget is None else budget, grid)
        pos = self.pos_embed
        if grid != self.patch_embed.grid_size:
            pos = resample_abs_pos_embed(
                pos, new_size=list(grid), old_size=list(self.patch_embed.grid_size), num_prefix_tokens=0
            )
        pos = pos.unflatten(1, grid)  # (1, h, w, D)
        if self.learned_tokens is None:
            compressed = resize_grid(features, side) + resize_grid(pos, side)
        elif side == self.budget:
            compressed = self.learned_tokens.repeat(features.shape[0], 1, 1)
        else:
            raise EncoderError(f"learned compressed tokens have no choice of budget: it is {self.budget}, not {side}")
        lookup = (features + pos).flatten(1, 2)
        return self.pos_drop(compressed), self.pos_drop(lookup)

    def forward_streams(
        self,
        x: torch.Tensor,
        budget: int | None = None,
        lookup_output: bool = True,
        intermediates: dict[str, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both streams after the last block, before their norms: (B, M, D) and (B, N, D).

        Args:
            x: Pixels (B, 3, H, W), normalised as `pretrained_cfg` says.
            budget: s; None for the model's own.
            lookup_output: False when only the compressed tokens will be read: the last block's infusion is left out,
                which is how the paper's Table 1 counts, and the lookup tokens returned are those it would have changed.
            intermediates: A dict to be filled with every block's gather attention, as
                `blocks.{i}.attn` (B, K, M, N).
        """
        compressed, lookup = self.embed(x, budget)
        for i, block in enumerate(self.blocks):
            infuse = lookup_output or i + 1 < len(self.blocks)
            if self.grad_checkpointing and self.training and not torch.jit.is_scripting():
                compressed, lookup, attn = checkpoint(block, compressed, lookup, infuse)
            else:
                compressed, lookup, attn = block(compressed, lookup, infuse)
            if intermediates is not None and attn is not None:
                intermediates[f"blocks.{i}.attn"] = attn
        return compressed, lookup

    def forward_tokens(self, x: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        """What a decoder reads: pixels (B, 3, H, W) -> compressed tokens (B, M, D), after the final norm.

        As an ablation, with `streams=("lookup",)`: the lookup tokens (B, N, D), whatever the budget.
        """
        if "compressed" not in self.streams:
            return self.norm_lookup(self.forward_streams(x, budget)[1])
        compressed, _ = self.forward_streams(x, budget, lookup_output=False)
        return self.norm(compressed)

    def forward_features(self, x: torch.Tensor, budget: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Both streams after the final norms: (B, M, D) and (B, N, D)."""
        compressed, lookup = self.forward_streams(x, budget)
        return self.norm(compressed), self.norm_lookup(lookup)

    def forward_head(self, features: tuple[torch.Tensor, torch.Tensor], pre_logits: bool = False) -> torch.Tensor:
        """The classified streams' average: logits (B, C), or pooled tokens (B, D) if `pre_logits` or C = 0.

        With `global_pool=''` and no heads to reach: the compressed tokens (B, M, D).
        """
        if not self.global_pool and (pre_logits or not self.num_classes):
            return features[0]
        outputs = [self.head_drop(each) for each in self._pool(features)]
        if not pre_logits:
            outputs = [head(each) for head, each in zip(self.get_classifier(), outputs, strict=True)]
        if self.joint_training and self.training and not pre_logits:
            return tuple(outputs)
        return sum(outputs) / len(outputs)

    def _pool(self, features: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        tokens = dict(zip(("compressed", "lookup"), features, strict=True))
        return tuple(tokens[stream].mean(dim=1) for stream in self.streams)

    def forward_pooled(self, x: torch.Tensor, budget: int | None = None) -> tuple[torch.Tensor, ...]:
        """Pixels (B, 3, H, W) -> what each head of `get_classifier` reads, (B, D) each, before its dropout."""
        return self._pool(self.forward_features(x, budget))

    def forward(self, x: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        return self.forward_head(self.forward_features(x, budget))


def init_weights(module: nn.Module, name: str = "") -> None:
    """ViT's initialisation as AugReg trained it: Xavier for matrices, LeCun for the patches, zero for the heads."""
    if ".trunk." in name:
        return  # a hybrid's convolutions have initialised themselves
    if isinstance(module, nn.Linear):
        if name.startswith("head"):
            nn.init.zeros_(module.weight)
        else:
            nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        lecun_normal_(module.weight)
        nn.init.zeros_(module.bias)


_cfg = partial(
    augreg_cfg,
    fixed_input_size=False,
    first_conv="patch_embed.proj",
    classifier=("head", "head_lookup"),
    paper_ids="arXiv:2407.12753",
    paper_name="LookupViT: Compressing visual information to a limited number of tokens",
)

default_cfgs = generate_default_cfgs(
    {
        "lookupvit_tiny_patch16_224": _cfg(),
        "lookupvit_small_patch16_224": _cfg(),
        "lookupvit_base_patch16_224": _cfg(),
        "lookupvit_large_patch16_224": _cfg(),
        "lookupvit_mini_patch8_96": _cfg(**SMALL_IMAGE),
        "lookupvit_test_patch8_48": _cfg(**{**SMALL_IMAGE, "input_size": (3, 48, 48)}),
    }
)


def _create_lookupvit(variant: str, pretrained: bool = False, **kwargs: Any) -> LookupViT:
    return build_model_with_cfg(LookupViT, variant, pretrained, **kwargs)


@register_model
def lookupvit_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> LookupViT:
    """LookupViT-Ti/16."""
    model_args = dict(patch_size=16, embed_dim=192, depth=12, num_heads=3)
    return _create_lookupvit("lookupvit_tiny_patch16_224", pretrained=pretrained, **dict(model_args, **kwargs))


@register_model
def lookupvit_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> LookupViT:
    """LookupViT-S/16."""
    model_args = dict(patch_size=16, embed_dim=384, depth=12, num_heads=6)
    return _create_lookupvit("lookupvit_small_patch16_224", pretrained=pretrained, **dict(model_args, **kwargs))


@register_model
def lookupvit_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> LookupViT:
    """LookupViT-B/16, the paper's first."""
    model_args = dict(patch_size=16, embed_dim=768, depth=12, num_heads=12)
    return _create_lookupvit("lookupvit_base_patch16_224", pretrained=pretrained, **dict(model_args, **kwargs))


@register_model
def lookupvit_large_patch16_224(pretrained: bool = False, **kwargs: Any) -> LookupViT:
    """LookupViT-L/16, the paper's second."""
    model_args = dict(patch_size=16, embed_dim=1024, depth=24, num_heads=16)
    return _create_lookupvit("lookupvit_large_patch16_224", pretrained=pretrained, **dict(model_args, **kwargs))


@register_model
def lookupvit_mini_patch8_96(pretrained: bool = False, **kwargs: Any) -> LookupViT:
    """The bundled captioner's encoder: small photos, 12 x 12 lookup tokens; trains on a CPU."""
    model_args = dict(budgets=(3, 5, 7), **MINI)
    return _create_lookupvit("lookupvit_mini_patch8_96", pretrained=pretrained, **dict(model_args, **kwargs))


@register_model
def lookupvit_test_patch8_48(pretrained: bool = False, **kwargs: Any) -> LookupViT:
    """For tests and `--smoke`: runs in milliseconds, learns nothing of use."""
    model_args = dict(img_size=48, patch_size=8, embed_dim=64, depth=2, num_heads=2, budget=3, budgets=(2, 3))
    return _create_lookupvit("lookupvit_test_patch8_48", pretrained=pretrained, **dict(model_args, **kwargs))
