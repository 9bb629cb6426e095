"""The classification trainer: an encoder learns from labelled photos, or from the words of captioned ones.

    vlcap train classifier --recipe tiny-imagenet --data DIR --out RUN

A LookupViT's two streams are pooled and classified, the two losses averaged (section 3.4); augmentation, mixing and
schedule are AugReg's (arXiv 2106.10270) out of timm's parts. RUN/encoder is what the captioning trainer takes.
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from pydantic import Field
from timm.data import Mixup
from torch.utils.data import DataLoader

from vlcap.encoder import Encoder

from .labels import LabelError, LabelledPhotos, LabelledSet, read_labelled, read_words
from .loop import fit
from .recipe import Recipe


class ClassifierRecipe(Recipe):
    """A classification run."""

    encoder: str = Field("lookupvit_mini_patch8_96", description="architecture, or the folder of a trained encoder")
    image_size: int | None = Field(None, gt=0, description="side in pixels; None: the encoder's own")
    target: Literal["label", "words"] = Field("label", description="words: those of the photos' captions")
    words: int = Field(1000, gt=0, description="size of the vocabulary for target: words")
    scale: tuple[float, float] = Field((0.08, 1.0), description="area of the random crop (Inception)")
    hflip: float = 0.5
    auto_augment: str | None = Field(None, description="timm's notation; AugReg's (2, 10) is rand-n2-m10")
    color_jitter: float | None = None
    mixup: float = Field(0.0, ge=0, description="alpha")
    cutmix: float = Field(0.0, ge=0, description="alpha")
    smoothing: float = Field(0.0, ge=0, lt=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    drop_path: float = Field(0.0, ge=0, lt=1)


class Classification:
    """The `Task` of the loop. Targets are class numbers (cross-entropy) or weights per class (binary cross-entropy)."""

    def __init__(self, recipe: ClassifierRecipe, data: list[str]):
        self.recipe = recipe
        train, self.val = self._read(data)
        self.trained_heads = False
        encoder = self._encoder(train)
        pixels = replace(encoder.pixels, size=recipe.image_size) if recipe.image_size else encoder.pixels
        self.pixels = pixels
        self.encoder = encoder
        self.model = encoder.model
        self.multi_label = train.multi_label
        augment = pixels.train_transform(
            scale=recipe.scale, hflip=recipe.hflip, auto_augment=recipe.auto_augment, color_jitter=recipe.color_jitter)
        self.train_set = LabelledPhotos(train, augment, limit=recipe.limit)
        self.val_set = LabelledPhotos(self.val, pixels.eval_transform(), limit=recipe.limit)
        self.mix = None
        if recipe.mixup or recipe.cutmix:
            self.mix = Mixup(
                mixup_alpha=recipe.mixup,
                cutmix_alpha=recipe.cutmix,
                label_smoothing=0.0 if self.multi_label else recipe.smoothing,
                num_classes=len(train.classes),
                multi_label=self.multi_label,
            )
        heads = self.model.get_classifier()
        if isinstance(heads, tuple):
            self.model.set_joint_training()
        if self.multi_label and not self.trained_heads:  # AugReg's head bias, for known frequencies: most are rare
            prior = train.targets.mean(dim=0).clamp(1e-4, 1 - 1e-4).logit()
            for head in heads if isinstance(heads, tuple) else (heads,):
                head.bias.data.copy_(prior)

    def _read(self, data: list[str]) -> tuple[LabelledSet, LabelledSet]:
        if self.recipe.target == "words":
            train = read_words(data, "train", self.recipe.words)
            return train, read_words(data, "val", self.recipe.words, vocabulary=train.classes)
        if len(data) != 1:
            raise LabelError(f"target: label takes one --data, not {len(data)}")
        return read_labelled(data[0], "train"), read_labelled(data[0], "val")

    def _encoder(self, train: LabelledSet) -> Encoder:
        model_args = {"proj_drop_rate": self.recipe.dropout, "drop_path_rate": self.recipe.drop_path}
        if Path(self.recipe.encoder).is_dir():
            old = Encoder.from_pretrained(self.recipe.encoder)
            encoder = Encoder.create(
                old.config.architecture,
                classes=train.classes,
                pixels=old.pixels,
                **{**old.config.model_args, **model_args},
            )
            weights = old.model.state_dict()
            if old.config.classes != train.classes:
                weights = {name: weight for name, weight in weights.items() if not name.startswith("head")}
            else:
                self.trained_heads = True
            encoder.model.load_state_dict(weights, strict=False)
        else:
            encoder = Encoder.create(self.recipe.encoder, classes=train.classes, **model_args)
        return encoder.set_budgets(self.recipe.budgets) if self.recipe.budgets else encoder

    def collate(self, items: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, targets = zip(*items, strict=True)
        return torch.stack(pixels), torch.stack(targets)

    def criterion(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self.multi_label:  # summed over the words: a photo counts once, however many words there are
            return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(dim=-1).mean()
        return F.cross_entropy(logits, target, label_smoothing=0.0 if target.ndim == 2 else self.recipe.smoothing)

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], budget: int | None) -> torch.Tensor:
        device = next(model.parameters()).device
        pixels, target = (tensor.to(device, non_blocking=True) for tensor in batch)
        pixels = self.pixels.normalize(pixels)
        if self.mix:
            pixels, target = self.mix(pixels, target)
        logits = model(pixels, budget=budget)
        streams = logits if isinstance(logits, tuple) else (logits,)
        return torch.stack([self.criterion(each.float(), target) for each in streams]).mean()

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Loss, and top-1 accuracy or (words) mean average precision, at each of the encoder's budgets."""
        device = next(model.parameters()).device
        loader = DataLoader(
            self.val_set, batch_size=self.recipe.batch_size, collate_fn=self.collate, num_workers=self.recipe.workers)
        outputs: dict[int, list[torch.Tensor]] = {budget: [] for budget in self.encoder.config.budgets}
        targets = []
        for pixels, target in loader:
            pixels = self.pixels.normalize(pixels.to(device))
            for budget, logits in outputs.items():
                logits.append(model(pixels, budget=budget).float().cpu())
            targets.append(target)
        target = torch.cat(targets)
        figures = {}
        for budget, logits in outputs.items():
            logits = torch.cat(logits)
            figures[f"val_loss@{budget}"] = self.criterion(logits, target).item()
            if self.multi_label:
                figures[f"mAP@{budget}"] = mean_average_precision(logits, target > 0)
            else:
                figures[f"top1@{budget}"] = (logits.argmax(dim=1) == target).float().mean().item()
        return figures

    def save(self, model: nn.Module, folder: Path) -> None:
        encoder = copy.deepcopy(self.encoder)  # its own model is the one in training, `model` perhaps an average of it
        encoder.model.load_state_dict(model.state_dict())
        encoder.config.pixels = self.pixels.to_dict()
        encoder.save_pretrained(folder / "encoder")


def mean_average_precision(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Area under the precision-recall curve of each class, averaged over the classes that occur.

    Args:
        scores: (n, C), higher is likelier.
        positive: (n, C), bool.
    """
    order = scores.argsort(dim=0, descending=True)
    hits = positive.gather(0, order).float()
    ranks = torch.arange(1, len(hits) + 1).unsqueeze(1)
    precision = hits.cumsum(dim=0) / ranks
    found = hits.sum(dim=0)
    return ((precision * hits).sum(dim=0) / found.clamp(min=1))[found > 0].mean().item()


def train_classifier(recipe: ClassifierRecipe, data: list[str], out: Path) -> dict[str, float]:
    """Trains an encoder into `out`/encoder; returns the last validation figures."""
    return fit(lambda: Classification(recipe, data), recipe, out)
