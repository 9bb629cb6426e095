"""Learning from a plain ViT: its weights to start from, its answers to imitate.

    vlcap train classifier --init-from vit_base_patch16_224.augreg_in21k --set encoder=lookupvit_base_patch16_224 ...

For people without ImageNet-21k. Refinement is a ViT block of the same shape (Algorithm 3), so a ViT's blocks, patch and
positional embeddings fit as they are; gather and infuse start from scratch.
"""

import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models.vision_transformer import VisionTransformer
from timm.task import DistillationTeacher

from encoders import LookupViT
from vlcap.encoder import Encoder
from vlcap.images import PixelConfig


class TeacherError(ValueError):
    """A ViT that can't be learned from: which, and why."""


def pretrained_vit(name: str) -> VisionTransformer:
    """A timm ViT with its weights, by timm's name, or hf-hub:NAME or local-dir:FOLDER as timm has it.

    Raises:
        TeacherError: There is no such ViT, or its weights can't be had.
    """
    try:
        vit = timm.create_model(name, pretrained=True)
    except Exception as error:  # timm's and the hub client's: unknown name, no weights, no network
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TeacherError(f"{name}: no pretrained model of timm's can be had under this name: {reason}") from None
    if not isinstance(vit, VisionTransformer):
        raise TeacherError(f"{name} is a {type(vit).__name__}, not a ViT")
    return vit


def start_from_vit(encoder: Encoder, name: str) -> None:
    """Copies a ViT's weights into what a LookupViT shares with it, in place, and takes over its pixel statistics.

    Patch and positional embeddings are resampled where the patch or the grid is another; the class token's position is
    left out.

    Args:
        encoder: A LookupViT.
        name: The ViT's, as `pretrained_vit` takes it.

    Raises:
        TeacherError: Width or depth differ, or a weight does.
    """
    vit, model = pretrained_vit(name), encoder.model
    if not isinstance(model, LookupViT):
        raise TeacherError(f"init_from fills a LookupViT; {encoder.config.architecture} takes timm's weights itself")
    ours, theirs = ((each.embed_dim, len(each.blocks)) for each in (model, vit))
    if ours != theirs:
        raise TeacherError(
            f"{name} is {theirs[0]} wide and {theirs[1]} blocks deep, "
            f"{encoder.config.architecture} {ours[0]} and {ours[1]}")
    weights = vit.state_dict()
    if "pos_embed" not in weights:
        raise TeacherError(f"{name} has no positional embedding to start from")
    start = {
        "patch_embed.proj.weight": resample_patch_embed(
            weights["patch_embed.proj.weight"], new_size=[model.patch_size, model.patch_size]),
        "pos_embed": resample_abs_pos_embed(
            weights["pos_embed"], new_size=list(model.patch_embed.grid_size), old_size=list(vit.patch_embed.grid_size),
            num_prefix_tokens=0 if vit.no_embed_class else vit.num_prefix_tokens)[:, -model.pos_embed.shape[1]:],
    }
    if "patch_embed.proj.bias" in weights:
        start["patch_embed.proj.bias"] = weights["patch_embed.proj.bias"]
    for key, weight in weights.items():
        if key.startswith("blocks."):
            _, number, rest = key.split(".", 2)
            start[f"blocks.{number}.refine.{rest}"] = weight
        elif key.startswith(("norm.", "fc_norm.")):
            start["norm." + key.split(".")[1]] = weight
    own = model.state_dict()
    if strange := [key for key, weight in start.items() if key not in own or own[key].shape != weight.shape]:
        raise TeacherError(f"{name} has weights that {encoder.config.architecture} has no place for: {strange[0]} ...")
    model.load_state_dict(own | start)
    cfg = vit.pretrained_cfg
    encoder.config.pixels = {**encoder.config.pixels, "mean": list(cfg["mean"]), "std": list(cfg["std"])}


class Teacher:
    """A ViT that knows the classes; the pupil's distribution is drawn to its own (G. Hinton et al., arXiv 1503.02531).

    Args:
        name: As `pretrained_vit` takes it.
        classes: How many there are.
        pupil: The pupil's preprocessing.

    Raises:
        TeacherError: It was trained for other classes.
    """

    def __init__(self, name: str, classes: int, pupil: PixelConfig):
        vit = pretrained_vit(name)
        if vit.num_classes != classes:
            raise TeacherError(f"teacher {name} tells {vit.num_classes} classes apart, the photos have {classes}")
        self.size = vit.pretrained_cfg["input_size"][-1]
        self.model = DistillationTeacher(vit).requires_grad_(False)
        self.mean, self.std = (torch.tensor(each).view(1, -1, 1, 1) for each in (pupil.mean, pupil.std))

    def loss(self, pixels: torch.Tensor, streams: list[torch.Tensor], temperature: float) -> torch.Tensor:
        """Mean Kullback-Leibler divergence of the pupil's streams from the teacher, times temperature squared.

        Args:
            pixels: (B, 3, S, S), normalised for the pupil.
            streams: Logits (B, C) of each.
            temperature: Of both distributions.
        """
        self.model.to(pixels.device)
        with torch.no_grad():
            seen = self.model.normalize_input(pixels, self.mean.to(pixels.device), self.std.to(pixels.device))
            if seen.shape[-1] != self.size:
                seen = F.interpolate(seen, size=(self.size, self.size), mode="bicubic", antialias=True)
            taught = F.log_softmax(self.model(seen).float() / temperature, dim=-1)
        divergences = [
            F.kl_div(F.log_softmax(each / temperature, dim=-1), taught, reduction="batchmean", log_target=True)
            for each in streams
        ]
        return torch.stack(divergences).mean() * temperature**2
