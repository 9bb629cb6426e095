"""Small models of the kinds that people bring along, with random weights, in folders that timm wrote."""

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
KINDS = {  # name: timm's name, arguments
    "siglip": ("vit_base_patch16_siglip_224", VIT),  # no class token, pools by attention
    "dinov2": ("vit_small_patch14_reg4_dinov2", {**VIT, "img_size": 56, "patch_size": 14, "num_classes": 0}),
    "clip": ("vit_base_patch16_clip_224", {**VIT, "num_classes": 7}),  # a norm before the blocks
    "efficientnet": ("test_efficientnet", {}),  # 160 pixels, 5 x 5 positions
}
SIDES = {"siglip": 4, "dinov2": 4, "clip": 4, "efficientnet": 5}
VITS = ("siglip", "dinov2", "clip")


def make(kind: str, **changes: Any) -> torch.nn.Module:
    """A model in eval mode, whose weights are far enough from their first values to make all tokens differ."""
    torch.manual_seed(0)
    name, arguments = KINDS[kind]
    model = timm.create_model(name, **{**arguments, **changes}).eval()
    for weight in model.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    for name, values in model.named_buffers():
        if name.endswith("running_mean"):
            values.normal_()
    return model


def write(model: torch.nn.Module, folder: Path) -> Path:
    """timm's own folder of a model: config.json and model.safetensors."""
    save_for_hf(model, str(folder), safe_serialization=True)
    return folder
