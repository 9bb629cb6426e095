"""ViTTM: a ViT over few process tokens, which read from and write to many memory tokens.

P. Jajal et al., "Token Turing Machines are Efficient Vision Models", arXiv 2409.07613. By default it is the model that
the paper compares with others (section 4.3): linear-attention heads with c = d / 4, fusion by addition, no MLP on the
memory, process tokens from larger patches. Arguments choose what its Tables 1 to 4 vary.

Legend of shapes
    B: batch   T: memory tokens   K: process tokens   D: embed_dim   c: latent width of the read-write heads

Where the paper leaves a choice, its published costs decide, as far as they do (tests/encoders/test_vittm.py):
- Linear heads have as many attention heads as the ViT and no output projection; cross and latent heads have one. The
  parameters in the paper's Table 5 would fit an output projection in linear heads better; no cost in it does.
- The last block writes too, although nothing reads what it writes. That part is frozen: in training with several
  processes, they would wait for its gradients.
TokenSummary, a fourth head of Table 1, is not here.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import Mlp, PatchEmbed, resample_abs_pos_embed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from .errors import EncoderError
from .preprocessing import SMALL_IMAGE, augreg_cfg
from .read_write import HEADS, Fusion, FusionKind, HeadKind
from .sizes import sized
from .vit import PatchViT

ProcessInit = Literal["patch", "downsample", "latent"]


class MemoryMlp(nn.Module):
    """The residual MLP that Table 4 adds to the memory: D -> r D -> D."""

    def __init__(self, dim: int, ratio: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(in_features=dim, hidden_features=int(dim * ratio))

    def forward(self, memory: torch.Tensor) -> torch.Tensor:
        return memory + self.mlp(self.norm(memory))


class ViTTM(PatchViT):
    """A ViT over large patches, the process tokens, with a memory of small patches.

    Args:
        patch_size: Side of the memory tokens' patches.
        process_patch_size: Side of the process tokens' patches; the larger, the fewer tokens.
        img_size: Side of the image in pixels.
        in_chans: Channels of the image.
        process_init: What process tokens start as (section 3.2.1): "patch", projections of the larger patches;
            "downsample", averages of the memory tokens; "latent", learned, the same for every image.
        rw_head: Read-write head (section 3.2.2, Table 1): "linear", "cross" or "latent".
        rw_heads: Attention heads of a read-write head; None for the ViT's.
        rw_proj: Whether a read-write head has an output projection; None for no in linear heads and yes in others.
        latent_ratio: c / D (Table 2).
        fusion: How tokens are merged with what they received (section 3.2.3, Table 1): "add", "erase" or "add_erase".
        memory_mlp_ratio: r, the width of the memory's MLP divided by D (Table 4); 0 for no MLP.
        memory_layer: What makes the memory tokens, from img_size, in_chans and embed_dim; None for patches.
        kwargs: timm's arguments of a ViT.

    Raises:
        EncoderError: There is no such head, fusion or start, or the heads do not divide c.
    """

    def __init__(
        self,
        patch_size: int = 16,
        process_patch_size: int = 32,
        img_size: int = 224,
        in_chans: int = 3,
        process_init: ProcessInit = "patch",
        rw_head: HeadKind = "linear",
        rw_heads: int | None = None,
        rw_proj: bool | None = None,
        latent_ratio: float = 0.25,
        fusion: FusionKind = "add",
        memory_mlp_ratio: float = 0.0,
        memory_layer: Callable[..., nn.Module] | None = None,
        **kwargs: Any,
    ):
        super().__init__(img_size=img_size, patch_size=process_patch_size, in_chans=in_chans, **kwargs)
        if rw_head not in HEADS:
            raise EncoderError(f"rw_head {rw_head!r}: choose one of {', '.join(HEADS)}")
        if process_init not in get_args(ProcessInit):
            raise EncoderError(f"process_init {process_init!r}: choose one of {', '.join(get_args(ProcessInit))}")
        dim, depth = self.embed_dim, len(self.blocks)
        self.process_init = process_init
        if process_init != "patch":
            self.patch_embed.proj = nn.Identity()  # only its grid is used
        if memory_layer is None:
            memory_layer = partial(PatchEmbed, patch_size=patch_size, strict_img_size=False)
        self.memory_embed = memory_layer(img_size=img_size, in_chans=in_chans, embed_dim=dim)
        tokens = self.memory_embed.num_patches
        self.memory_pos_embed = nn.Parameter(torch.randn(1, tokens, dim) * 0.02)
        head = {
            "dim": dim,
            "latent_dim": round(dim * latent_ratio),
            "num_heads": rw_heads or self.blocks[0].attn.num_heads,
            "proj": rw_head != "linear" if rw_proj is None else rw_proj,
        }
        self.read = nn.ModuleList(HEADS[rw_head](**head) for _ in range(depth))
        self.write = nn.ModuleList(HEADS[rw_head](**head) for _ in range(depth))
        self.process_fusion = nn.ModuleList(Fusion(fusion, self.patch_embed.num_patches, dim) for _ in range(depth))
        self.memory_fusion = nn.ModuleList(Fusion(fusion, tokens, dim) for _ in range(depth))
        self.memory_mlp = nn.ModuleList(
            MemoryMlp(dim, memory_mlp_ratio) if memory_mlp_ratio else nn.Identity() for _ in range(depth)
        )
        for unread in (self.write, self.memory_fusion, self.memory_mlp):
            unread[-1].requires_grad_(False)

    def no_weight_decay(self) -> set[str]:
        return {*super().no_weight_decay(), "memory_pos_embed"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        parts = "blocks|read|write|process_fusion|memory_fusion|memory_mlp"
        return {
            "stem": r"^pos_embed|^patch_embed|^memory_(?:embed|pos_embed)",
            "blocks": [(rf"^(?:{parts})\.(\d+)", None), (r"^norm", (99999,))],
        }

    def set_input_size(self, img_size: int | tuple[int, int] | None = None, patch_size: Any = None) -> None:
        """Resamples whatever there is one of per token for images of another size. Patch sizes cannot change.

        Raises:
            EncoderError: `patch_size` is given.
        """
        if patch_size is not None:
            raise EncoderError("ViTTM has two patch sizes; set_input_size can change neither")
        old, old_memory = self.patch_embed.grid_size, self.memory_embed.grid_size
        super().set_input_size(img_size=img_size)
        self.memory_embed.set_input_size(img_size=img_size)
        new, new_memory = self.patch_embed.grid_size, self.memory_embed.grid_size
        self.memory_pos_embed = _resampled(self.memory_pos_embed, old_memory, new_memory)
        for fusions, before, after in (
            (self.process_fusion, old, new),
            (self.memory_fusion, old_memory, new_memory),
        ):
            for fusion in fusions:
                if fusion.kind == "add_erase":
                    fusion.weight = _resampled(fusion.weight, before, after)
                    fusion.bias = _resampled(fusion.bias, before, after)

    def _start(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Process tokens (B, K, D) before the first block, from pixels and the memory (B, T, D)."""
        if self.process_init == "latent":
            return self.norm_pre(self.pos_drop(self.pos_embed.expand(len(memory), -1, -1)))
        if self.process_init == "downsample":
            grid = memory.transpose(1, 2).unflatten(2, self.memory_embed.grid_size)
            process = F.adaptive_avg_pool2d(grid, self.patch_embed.grid_size).flatten(2).transpose(1, 2)
        else:
            process = self.patch_embed(x)
        return self.norm_pre(self.patch_drop(self._pos_embed(process)))

    def embed_memory(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W) -> memory tokens (B, T, D), before their positional embedding."""
        return self.memory_embed(x)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W) -> process tokens (B, K, D)."""
        memory = self.embed_memory(x) + self.memory_pos_embed
        process = self._start(x, memory)
        for i, block in enumerate(self.blocks):
            read = self.read[i](source=memory, target=process)  # equation 1
            process = block(self.process_fusion[i](process, read))  # equation 2
            written = self.write[i](source=process, target=memory)  # equation 3
            memory = self.memory_mlp[i](self.memory_fusion[i](memory, written))  # equation 4
        return self.norm(process)


def _resampled(weight: nn.Parameter, old: tuple[int, int], new: tuple[int, int]) -> nn.Parameter:
    """One value or vector per token of a grid, (1, N, D), for another grid. What was frozen stays frozen."""
    data = resample_abs_pos_embed(weight.data, new_size=list(new), old_size=list(old), num_prefix_tokens=0)
    return nn.Parameter(data.contiguous(), requires_grad=weight.requires_grad)


def older_arguments(architecture: str, given: Mapping[str, Any], weights: Collection[str]) -> dict[str, Any]:
    """Arguments that a ViTTM saved by an earlier version lacks: its heads had one attention head and a projection.

    Args:
        architecture: Registered name of the saved encoder.
        given: Its saved arguments.
        weights: Names of its saved weights, with any prefix.
    """
    if not architecture.startswith("vittm_") or {"rw_head", "rw_proj"} & given.keys():
        return {}
    old = any(name.endswith("read.0.proj.weight") for name in weights)
    return {"rw_heads": 1, "rw_proj": True} if old else {}


_layers = {"first_conv": ("patch_embed.proj", "memory_embed.proj"), "classifier": "head"}

default_cfgs = generate_default_cfgs(
    {
        "vittm_small_patch16_224": augreg_cfg(**_layers),
        "vittm_base_patch16_224": augreg_cfg(**_layers),
        "vittm_mini_patch8_96": augreg_cfg(**_layers, **SMALL_IMAGE),
    }
)


@register_model
def vittm_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> ViTTM:
    """ViTTM-S: 49 process tokens, 196 memory tokens."""
    arguments = sized("small", kwargs, process_patch_size=32)
    return build_model_with_cfg(ViTTM, "vittm_small_patch16_224", pretrained, **arguments)


@register_model
def vittm_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> ViTTM:
    """ViTTM-B: 49 process tokens, 196 memory tokens; 7.10 GMACs in the paper's Tables 2 and 5."""
    arguments = sized("base", kwargs, process_patch_size=32)
    return build_model_with_cfg(ViTTM, "vittm_base_patch16_224", pretrained, **arguments)


@register_model
def vittm_mini_patch8_96(pretrained: bool = False, **kwargs: Any) -> ViTTM:
    """ViTTM of LookupViT mini's size: 36 process tokens, 144 memory tokens."""
    arguments = sized("mini", kwargs, process_patch_size=16)
    return build_model_with_cfg(ViTTM, "vittm_mini_patch8_96", pretrained, **arguments)
