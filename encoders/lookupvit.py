"""LookupViT: many cheap lookup tokens, and few compressed tokens on which the heavy layers work.

R. Koner et al., "LookupViT: Compressing visual information to a limited number of tokens", ECCV 2024, arXiv 2407.12753.
Section 3.2 (tokens), section 3.3 with Algorithms 1 to 4 (block), section 3.4 (two heads, joint loss, averaged output).
Table 5's variants are in ablations.py, the registered names in variants.py.

    model = timm.create_model("lookupvit_base_patch16_224", num_classes=0)   # after `import encoders`
    tokens = model.forward_tokens(pixels, budget=5)                          # (B, 25, 768)

Legend of shapes
    B: batch   H, W: image in pixels   h, w: lookup grid, H / patch and W / patch   N = h * w: lookup tokens
    s: budget, the side of the compressed grid   M = s * s: compressed tokens
    D: embed_dim   K: num_heads   d = D / K   C: num_classes   L: depth

Where the pseudo-code leaves a choice, we read it so:
- Attention is multi-head, and each direction has its own output projection: only then does the count of equation 6,
  (4N + 15M) D^2, hold. Logits are scaled by d^-0.5, as in ViT. Q, K and the infusion's V are layer-normalized over all
  D channels, after their projection and before they are split into heads.
- Algorithm 1 adds AV to its own, already normalized input, and line 3 of Algorithm 4 adds to z_l what Algorithm 2 has
  already added. We read each step as in ViT: one residual connection around a normalized branch. LN(z_l) of that line
  then has no effect (V is computed from z_p, and A is given), so it is left out here.
- Matrix products are computed in the cheaper of two equivalent orders (cross_attention.py). `set_reassociation(False)`
  keeps the paper's order, to count the paper's FLOPs.
- T resizes as the authors' framework does: bilinear, antialiased when it shrinks.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, PatchEmbed, calculate_drop_path_rates, lecun_normal_, resample_abs_pos_embed
from timm.models import checkpoint, named_apply
from timm.models.vision_transformer import Block

from .cross_attention import Gather, Infuse, LayerNorm
from .errors import EncoderError
from .interface import TokenEncoder

HEADS = {"compressed": "head", "lookup": "head_lookup"}  # stream -> its classifier (section 3.4)


def resize_grid(grid: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """T of equation 1: (B, h, w, D) -> (B, M, D), a grid of `size` (rows, columns), flattened row by row."""
    wide = grid.permute(0, 3, 1, 2).to(torch.promote_types(grid.dtype, torch.float32))  # CPUs resize no bfloat16
    wide = F.interpolate(wide, size=size, mode="bilinear", align_corners=False, antialias=True)
    return wide.flatten(2).transpose(1, 2).to(grid.dtype)


def refine_block(
    dim: int, num_heads: int, mlp_ratio: float, qkv_bias: bool, proj_drop: float, attn_drop: float, drop_path: float
) -> Block:
    """Algorithm 3, refinement of the compressed tokens: timm's ViT block."""
    return Block(
        dim=dim,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        qkv_bias=qkv_bias,
        proj_drop=proj_drop,
        attn_drop=attn_drop,
        drop_path=drop_path,
        norm_layer=LayerNorm,
    )


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
    ):
        super().__init__()
        self.norm_compressed = LayerNorm(dim)
        self.norm_lookup = LayerNorm(dim)
        self.gather = Gather(dim, num_heads, qkv_bias=qkv_bias, attn_drop=attn_drop, proj_drop=proj_drop)
        self.refine = refine_block(dim, num_heads, mlp_ratio, qkv_bias, proj_drop, attn_drop, drop_path)
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
            compressed: Compressed tokens (B, M, D).
            lookup: Lookup tokens (B, N, D).
            infuse: False leaves the lookup tokens unchanged, for a last block whose lookup tokens are not read.

        Returns:
            The compressed tokens (B, M, D), the lookup tokens (B, N, D) and the gather attention (B, K, M, N).
        """
        gathered, attn = self.gather(self.norm_compressed(compressed), self.norm_lookup(lookup))
        compressed = compressed + self.drop_path(gathered)  # line 1
        compressed = self.refine(compressed)  # line 2
        if infuse:
            lookup = lookup + self.drop_path(self.infuse(self.norm_infuse(compressed), attn))  # line 3
            lookup = lookup + self.drop_path(self.mlp(self.norm_mlp(lookup)))  # line 4
        return compressed, lookup, attn


class LookupViT(TokenEncoder, nn.Module):
    """LookupViT encoder and classifier.

    Args:
        img_size: Side of the images that the positional embedding is made for; it is resampled for other sizes.
        patch_size: Side of a patch in pixels.
        in_chans: Channels of the image.
        num_classes: C; 0 for no heads.
        global_pool: 'avg', or '' for unpooled compressed tokens from `forward_head`.
        embed_dim: D.
        depth: Number of blocks.
        num_heads: K.
        mlp_ratio: p of Algorithm 4: width of the compressed tokens' MLP, divided by D.
        lookup_mlp_ratio: 1/q of Algorithm 4: width of the lookup tokens' MLP, divided by D.
        qkv_bias: Whether the query, key and value projections have a bias.
        budget: Default s.
        budgets: Values of s that the model is meant for: what it is compared at, and what training draws from.
        drop_rate: Dropout before the heads.
        pos_drop_rate: Dropout after the positional embedding.
        proj_drop_rate: Dropout after projections and in MLPs.
        attn_drop_rate: Dropout on attention weights; `Infuse` uses the weights as `Gather` has dropped them.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0.
        embed_layer: What makes the grid of lookup tokens, from img_size, in_chans and embed_dim; None for patches.

    Raises:
        EncoderError: embed_dim is not a multiple of num_heads.
    """

    has_choice = True
    gathers = True
    any_size = True
    starts_from: Literal["vit", "trunk"] | None = "vit"
    streams: tuple[str, ...] = tuple(HEADS)  # those that are classified
    block_class: Callable[..., nn.Module] = LookupViTBlock

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
        embed_layer: Callable[..., nn.Module] | None = None,
    ):
        super().__init__()
        if embed_dim % num_heads:
            raise EncoderError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")
        self.num_classes = num_classes
        self.global_pool = global_pool
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.num_prefix_tokens = 0
        self.grad_checkpointing = False
        self.joint_training = False  # see set_joint_training
        self.budget, self.budgets = budget, tuple(budgets)

        if embed_layer is None:
            embed_layer = partial(
                PatchEmbed, patch_size=patch_size, strict_img_size=False, flatten=False, output_fmt="NHWC"
            )
        self.patch_embed = embed_layer(img_size=img_size, in_chans=in_chans, embed_dim=embed_dim)
        self.patch_size = self.patch_embed.patch_size[0]
        self.feature_info = [
            {"module": f"blocks.{i}", "num_chs": embed_dim, "reduction": self.patch_size} for i in range(depth)
        ]
        self.pos_embed = nn.Parameter(torch.randn(1, self.patch_embed.num_patches, embed_dim) * embed_dim**-0.5)
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self.blocks = nn.ModuleList(
            self.block_class(
                dim=embed_dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                lookup_mlp_ratio=lookup_mlp_ratio,
                qkv_bias=qkv_bias,
                proj_drop=proj_drop_rate,
                attn_drop=attn_drop_rate,
                drop_path=rate,
            )
            for rate in calculate_drop_path_rates(drop_path_rate, depth)
        )
        self.norm = LayerNorm(embed_dim)
        self.norm_lookup = LayerNorm(embed_dim)
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)
        named_apply(init_weights, self)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {"pos_embed"}

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
        """If enabled, `forward` in train mode gives the logits of both heads, for the joint loss (section 3.4)."""
        self.joint_training = enable

    @torch.jit.ignore
    def set_reassociation(self, enable: bool = True) -> None:
        """If disabled, matrix products are computed in the paper's order, whatever it costs."""
        for module in self.modules():
            if isinstance(module, (Gather, Infuse)):
                module.reassociate = enable

    @torch.jit.ignore
    def set_input_size(self, img_size: int) -> None:
        """Resamples the positional embedding for images of another size, as timm's ViTs do.

        `embed` resamples it anyway, but from here on the new one is trained and saved.
        """
        self.grid_side(img_size)  # refuses what the patches do not divide
        old = self.patch_embed.grid_size
        self.patch_embed.set_input_size(img_size=img_size)
        self.pos_embed = nn.Parameter(self.resample_positions(self.pos_embed.data, old, self.patch_embed.grid_size))

    def grid_side(self, size: int) -> int:
        side, rest = divmod(size, self.patch_size)
        if rest:
            raise EncoderError(f"{size} pixels are not a multiple of the patch size {self.patch_size}")
        return side

    @torch.jit.ignore
    def get_classifier(self) -> tuple[nn.Module, ...]:
        """The heads of the classified streams: first of the compressed, then of the lookup tokens."""
        return tuple(getattr(self, HEADS[stream]) for stream in self.streams)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        for stream, name in HEADS.items():
            wanted = num_classes and stream in self.streams
            head = nn.Linear(self.embed_dim, num_classes) if wanted else nn.Identity()
            init_weights(head, name)
            setattr(self, name, head.to(self.pos_embed))

    def embed_grid(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W) -> the grid of lookup tokens (B, h, w, D), before its positional embedding.

        Raises:
            EncoderError: The image is not a multiple of the patch.
        """
        height, width = x.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise EncoderError(f"image {height}x{width} is not a multiple of the patch size {self.patch_size}")
        return self.patch_embed(x)

    def embed(self, x: torch.Tensor, budget: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Equations 1 to 4: pixels (B, 3, H, W) -> compressed tokens (B, M, D) and lookup tokens (B, N, D).

        Raises:
            EncoderError: The image is not a multiple of the patch, or the budget is not in 1 .. min(h, w).
        """
        features = self.embed_grid(x).contiguous()  # (B, h, w, D); a strided stream would slow every layer
        grid = features.shape[1:-1]
        side = self.check_budget(budget, grid)
        pos = self.pos_embed
        if grid != self.patch_embed.grid_size:
            pos = self.resample_positions(pos, self.patch_embed.grid_size, grid)
        pos = pos.unflatten(1, grid)  # (1, h, w, D)
        compressed = self.compress(features, pos, side)
        lookup = (features + pos).flatten(1, -2)
        return self.pos_drop(compressed), self.pos_drop(lookup)

    def resample_positions(self, pos: torch.Tensor, old: Sequence[int], new: Sequence[int]) -> torch.Tensor:
        """The positional embedding (1, N, D) of a grid (h, w) for a new grid, as timm's ViTs do it."""
        return resample_abs_pos_embed(pos, new_size=list(new), old_size=list(old), num_prefix_tokens=0)

    def compress(self, features: torch.Tensor, pos: torch.Tensor, side: int) -> torch.Tensor:
        """Equations 1 to 3: features (B, h, w, D) and positions (1, h, w, D) -> compressed tokens (B, M, D)."""
        return resize_grid(features, (side, side)) + resize_grid(pos, (side, side))

    def forward_streams(
        self,
        x: torch.Tensor,
        budget: int | None = None,
        lookup_output: bool = True,
        intermediates: dict[str, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both streams after the last block, before their norms: (B, M, D) and (B, N, D).

        Args:
            x: Pixels (B, 3, H, W), normalized as `pretrained_cfg` says.
            budget: s; None for the model's own.
            lookup_output: False if only the compressed tokens are read. The last block's infusion is then left out, as
                in the paper's Table 1, and the lookup tokens returned are those before it.
            intermediates: A dict that receives the gather attention of every block as `blocks.{i}.attn` (B, K, M, N).
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
        """What a decoder reads: pixels (B, 3, H, W) -> compressed tokens (B, M, D), after the final norm."""
        compressed, _ = self.forward_streams(x, budget, lookup_output=False)
        return self.norm(compressed)

    def forward_maps(self, x: torch.Tensor, budget: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Compressed tokens (B, M, D) after the final norm, and every block's gather attention (B, L, K, M, N)."""
        found: dict[str, torch.Tensor] = {}
        compressed, _ = self.forward_streams(x, budget, lookup_output=False, intermediates=found)
        return self.norm(compressed), torch.stack(list(found.values()), dim=1)

    def forward_features(self, x: torch.Tensor, budget: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Both streams after the final norms: (B, M, D) and (B, N, D)."""
        compressed, lookup = self.forward_streams(x, budget)
        return self.norm(compressed), self.norm_lookup(lookup)

    def forward_head(self, features: tuple[torch.Tensor, torch.Tensor], pre_logits: bool = False) -> Any:
        """The average of the classified streams: logits (B, C), or pooled tokens (B, D) if `pre_logits` or C = 0.

        If `global_pool` is '' and no head is applied: the compressed tokens (B, M, D). In train mode with
        `joint_training`: a tuple of the logits (B, C) of each stream, for a loss of its own.
        """
        if not self.global_pool and (pre_logits or not self.num_classes):
            return features[0]
        outputs = self._pool(features)
        if not pre_logits:
            outputs = tuple(head(each) for head, each in zip(self.get_classifier(), outputs, strict=True))
        if self.joint_training and self.training and not pre_logits:
            return outputs
        return sum(outputs) / len(outputs)

    def _pool(self, features: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        tokens = dict(zip(HEADS, features, strict=True))
        return tuple(self.head_drop(tokens[stream].mean(dim=1)) for stream in self.streams)

    def forward_pooled(self, x: torch.Tensor, budget: int | None = None) -> tuple[torch.Tensor, ...]:
        return self._pool(self.forward_features(x, budget))

    def forward(self, x: torch.Tensor, budget: int | None = None) -> Any:
        """Classifies: pixels (B, 3, H, W), normalized -> what `forward_head` says.

        Raises:
            EncoderError: The budget is larger than the grid of the image, or the image does not fit the patches.
        """
        return self.forward_head(self.forward_features(x, budget))


def init_weights(module: nn.Module, name: str = "") -> None:
    """ViT's initialization, as in AugReg: Xavier for matrices, LeCun for patches, zero for heads."""
    if ".trunk." in name:
        return  # timm has initialized a hybrid's convolutions
    if isinstance(module, nn.Linear):
        if name.startswith("head"):
            nn.init.zeros_(module.weight)
        else:
            nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.Conv2d, nn.Conv3d)):
        lecun_normal_(module.weight)
        nn.init.zeros_(module.bias)
