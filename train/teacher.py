"""Learning from pretrained classifiers: initial weights, and a teacher's logits and features to imitate.

    vlcap train classifier --init-from vit_base_patch16_224.augreg_in21k --set encoder=lookupvit_base_patch16_224 ...
    vlcap train classifier --init-from package:tf_efficientnet_lite2 --set encoder=lookupvit_hybrid_lite2_224 \\
        --set teacher=package:tf_efficientnet_lite2 --set teacher_head=own ...

This is for training without ImageNet. The refine step is a ViT block of the same shape (Algorithm 3), so a ViT's
blocks, patch and positional embeddings fit unchanged; gather and infuse start from random weights. A hybrid's trunk
takes the weights of its own classifier.
"""

from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models.vision_transformer import VisionTransformer

from vlcap.model.encoder import Encoder

from .pretrained import PretrainedError, load_classifier


def start_from(encoder: Encoder, name: str) -> None:
    """Copies a pretrained classifier's weights into the parts that an encoder shares with it, in place.

    Args:
        encoder: LookupViT, for the weights of a ViT, or hybrid, for those of its trunk.
        name: Name of the classifier, as for `load_classifier`.

    Raises:
        PretrainedError: The two share no part, or a weight has another shape.
    """
    classifier = load_classifier(name)
    fills = encoder.model.starts_from
    if fills == "trunk":
        _fill_trunk(encoder.model.trunk, classifier, name)
    elif fills != "vit":
        raise PretrainedError(f"init_from fills a LookupViT; {encoder.config.architecture} takes timm's weights itself")
    elif isinstance(classifier, VisionTransformer):
        _fill_blocks(encoder, classifier, name)
    else:
        raise PretrainedError(f"{name} is a {type(classifier).__name__}, not a ViT")


def _fill_trunk(trunk: nn.Module, classifier: nn.Module, name: str) -> None:
    weights, own = classifier.state_dict(), trunk.state_dict()
    for key, weight in own.items():
        if key not in weights or weights[key].shape != weight.shape:
            raise PretrainedError(
                f"{name} is not the classifier of this encoder's trunk: it has no {key} of the shape "
                f"{tuple(weight.shape)}"
            )
    trunk.load_state_dict({key: weights[key] for key in own})


def _fill_blocks(encoder: Encoder, vit: VisionTransformer, name: str) -> None:
    """Copies a ViT's weights into a LookupViT's blocks and embeddings.

    Patch and positional embeddings are resampled if the patch size or the grid differs; the class token's position is
    left out. The encoder adopts the ViT's mean and standard deviation of pixels.
    """
    model = encoder.model
    ours, theirs = ((each.embed_dim, len(each.blocks)) for each in (model, vit))
    if ours != theirs:
        raise PretrainedError(
            f"{name} is {theirs[0]} wide and {theirs[1]} blocks deep, "
            f"{encoder.config.architecture} {ours[0]} and {ours[1]}"
        )
    weights = vit.state_dict()
    if "pos_embed" not in weights:
        raise PretrainedError(f"{name} has no positional embedding to start from")
    start = {
        "patch_embed.proj.weight": resample_patch_embed(
            weights["patch_embed.proj.weight"], new_size=[model.patch_size, model.patch_size]
        ),
        "pos_embed": resample_abs_pos_embed(
            weights["pos_embed"],
            new_size=list(model.patch_embed.grid_size),
            old_size=list(vit.patch_embed.grid_size),
            num_prefix_tokens=0 if vit.no_embed_class else vit.num_prefix_tokens,
        )[:, -model.pos_embed.shape[1] :],
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
        raise PretrainedError(f"{name} has weights that don't fit {encoder.config.architecture}, such as {strange[0]}")
    model.load_state_dict(own | start)
    cfg = vit.pretrained_cfg
    encoder.config.pixels = {**encoder.config.pixels, "mean": list(cfg["mean"]), "std": list(cfg["std"])}


class Outputs(NamedTuple):
    """What a student in training returns, per stream: logits of its own classes (B, C), logits of the teacher's classes
    (B, T), and pooled tokens in the teacher's width (B, P)."""

    own: list[torch.Tensor]
    taught: list[torch.Tensor]
    features: list[torch.Tensor]


class Student(nn.Module):
    """The student: an encoder in training, with extra heads that only distillation needs.

    In eval mode it returns what the encoder returns.

    Args:
        encoder: Encoder with its own heads.
        classes: Number of the teacher's classes, for a separate head; 0: the encoder's own head learns them.
        features: Width of the teacher's pooled features, to imitate them; 0: not imitated.
    """

    def __init__(self, encoder: nn.Module, classes: int = 0, features: int = 0):
        super().__init__()
        self.encoder = encoder
        streams, width = len(self._own_heads()), encoder.head_hidden_size
        self.heads = nn.ModuleList(nn.Linear(width, classes) for _ in range(streams if classes else 0))
        self.projections = nn.ModuleList(nn.Linear(width, features) for _ in range(streams if features else 0))

    def _own_heads(self) -> tuple[nn.Module, ...]:
        heads = self.encoder.get_classifier()
        return heads if isinstance(heads, tuple) else (heads,)

    def forward(self, x: torch.Tensor | list[torch.Tensor], budget: int | None = None) -> Outputs | torch.Tensor:
        if not self.training:
            return self.encoder(x, budget=budget)
        pooled = self.encoder.forward_pooled(x, budget=budget)
        own = [head(each) for head, each in zip(self._own_heads(), pooled, strict=True)]
        taught = [head(each) for head, each in zip(self.heads, pooled, strict=True)] if self.heads else own
        features = (
            [layer(each) for layer, each in zip(self.projections, pooled, strict=True)] if len(self.projections) else []
        )
        return Outputs(own, taught, features)


def distillation_loss(streams: list[torch.Tensor], logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean Kullback-Leibler divergence of the student's streams from the teacher, times temperature squared
    (G. Hinton et al., arXiv 1503.02531).

    Args:
        streams: Logits of the student (B, C), for each stream.
        logits: Logits of the teacher (B, C).
        temperature: Temperature of both distributions.
    """
    taught = F.log_softmax(logits.float() / temperature, dim=-1)
    divergences = [
        F.kl_div(F.log_softmax(each / temperature, dim=-1), taught, reduction="batchmean", log_target=True)
        for each in streams
    ]
    return torch.stack(divergences).mean() * temperature**2


def feature_loss(streams: list[torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """Mean cosine distance of the student's projected tokens (B, P), per stream, from the teacher's features (B, P)."""
    return torch.stack([1 - F.cosine_similarity(each, features, dim=-1).mean() for each in streams]).mean()
