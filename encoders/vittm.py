"""ViTTM: a ViT over few process tokens, which read from and write to many memory tokens.

P. Jajal et al., "Token Turing Machines are Efficient Vision Models", arXiv 2409.07613: linear-attention heads with
c = d / 4 (equations 5 to 9), fusion by addition, no MLP on the memory, process tokens from larger patches.

Legend of shapes
    B: batch   T: memory tokens   K: process tokens   D: embed_dim   c: D / 4

Where the paper leaves a choice, we read it so:
- The attention is that of Katharopoulos et al. (arXiv 2006.16236), whose weights sum to one: equation 8 omits the
  normaliser that its source has.
- Each head has an output projection. Without it the published cost of a memory token is not reached.
- The input of a head is layer-normalised, which the paper finds to help.
- The last block writes too, as in the published cost, although nothing reads what it writes. That head is frozen: in
  training with several processes, they would wait for its gradients.
"""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from .errors import EncoderError
from .preprocessing import SMALL_IMAGE, augreg_cfg
from .sizes import sized
from .vit import PatchViT


class LinearAttention(nn.Module):
    """A read or write head: `target` attends to `source`, at a cost linear in both."""

    def __init__(self, dim: int, latent_dim: int):
        super().__init__()
        self.norm_source = nn.LayerNorm(dim, eps=1e-6)
        self.norm_target = nn.LayerNorm(dim, eps=1e-6)
        self.q = nn.Linear(dim, latent_dim)
        self.k = nn.Linear(dim, latent_dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        source, target = self.norm_source(source), self.norm_target(target)
        q = 1 + F.elu(self.q(target))  # equation 9; (B, K, c) when process tokens read
        k = 1 + F.elu(self.k(source))  # (B, T, c)
        out = q @ (k.transpose(1, 2) @ self.v(source))  # equation 8; (B, K, D)
        total = q @ k.sum(dim=1).unsqueeze(-1)  # (B, K, 1), positive
        return self.proj(out / total)


class ViTTM(PatchViT):
    """A ViT over large patches, the process tokens, with a memory of small patches.

    Args:
        patch_size: Side of the memory tokens' patches.
        process_patch_size: Side of the process tokens' patches; the larger, the fewer tokens.
        img_size: Side of the image in pixels.
        in_chans: Channels of the image.
        kwargs: timm's arguments of a ViT.
    """

    def __init__(
        self,
        patch_size: int = 16,
        process_patch_size: int = 32,
        img_size: int = 224,
        in_chans: int = 3,
        **kwargs: Any,
    ):
        super().__init__(img_size=img_size, patch_size=process_patch_size, in_chans=in_chans, **kwargs)
        dim = self.embed_dim
        self.memory_embed = PatchEmbed(
            img_size=img_size, patch_size=patch_size, in_chans=in_chans, embed_dim=dim, strict_img_size=False
        )
        self.memory_pos_embed = nn.Parameter(torch.randn(1, self.memory_embed.num_patches, dim) * 0.02)
        self.read = nn.ModuleList(LinearAttention(dim, dim // 4) for _ in self.blocks)
        self.write = nn.ModuleList(LinearAttention(dim, dim // 4) for _ in self.blocks)
        self.write[-1].requires_grad_(False)

    def no_weight_decay(self) -> set[str]:
        return {*super().no_weight_decay(), "memory_pos_embed"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {
            "stem": r"^pos_embed|^patch_embed|^memory_",
            "blocks": [(r"^(?:blocks|read|write)\.(\d+)", None), (r"^norm", (99999,))],
        }

    def set_input_size(self, img_size: int | tuple[int, int] | None = None, patch_size: Any = None) -> None:
        """Resamples both positional embeddings for images of another size. Patch sizes cannot change.

        Raises:
            EncoderError: `patch_size` is given.
        """
        if patch_size is not None:
            raise EncoderError("ViTTM has two patch sizes; set_input_size can change neither")
        super().set_input_size(img_size=img_size)
        old = self.memory_embed.grid_size
        self.memory_embed.set_input_size(img_size=img_size)
        self.memory_pos_embed = nn.Parameter(
            resample_abs_pos_embed(
                self.memory_pos_embed.data,
                new_size=list(self.memory_embed.grid_size),
                old_size=list(old),
                num_prefix_tokens=0,
            )
        )

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W) -> process tokens (B, K, D)."""
        process = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        memory = self.memory_embed(x) + self.memory_pos_embed
        for read, block, write in zip(self.read, self.blocks, self.write, strict=True):
            process = block(process + read(source=memory, target=process))  # equations 1 and 2
            memory = memory + write(source=process, target=memory)  # equations 3 and 4
        return self.norm(process)


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
    """ViTTM-B: 49 process tokens, 196 memory tokens; 9.92 GMACs in the paper's Table 3."""
    arguments = sized("base", kwargs, process_patch_size=32)
    return build_model_with_cfg(ViTTM, "vittm_base_patch16_224", pretrained, **arguments)


@register_model
def vittm_mini_patch8_96(pretrained: bool = False, **kwargs: Any) -> ViTTM:
    """ViTTM of LookupViT mini's size: 36 process tokens, 144 memory tokens."""
    arguments = sized("mini", kwargs, process_patch_size=16)
    return build_model_with_cfg(ViTTM, "vittm_mini_patch8_96", pretrained, **arguments)
