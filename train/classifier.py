"""The classification trainer: an encoder learns from labeled photos or videos, or from the words of captioned photos.

    vlcap train classifier --recipe tiny-imagenet --data DIR --out RUN

A LookupViT's two streams are pooled and classified, and their losses averaged (section 3.4). Augmentation, mixing and
schedule are AugReg's (arXiv 2106.10270), built from timm's parts. The encoder may start from a plain ViT's weights and
learn from a teacher. The captioning trainer takes RUN/encoder.
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from pydantic import Field
from timm.data import Mixup

from vlcap.files.writing import written_whole
from vlcap.model.encoder import Encoder
from vlcap.model.timm_encoder import make_encoder, names_timm
from vlcap.processes import join, share

from .batches import validation_batches
from .cache import FrozenCache
from .clips import LabeledClips, check_kind, check_settings
from .frozen import LOGITS, POOLED, Frozen
from .labels import (
    CachedPhotos,
    LabeledPhotos,
    LabeledSet,
    LabelError,
    join_labeled,
    limited,
    read_labeled,
    read_words,
)
from .loop import Evaluation, Loss, TrainingError, fit
from .photos import augmentation_of
from .pretrained import PretrainedError, load_classifier
from .recipe import Recipe
from .run_folder import Data
from .streaming import LabeledStream, StreamedPhotos, read_stream
from .teacher import Outputs, Student, distillation_loss, feature_loss, start_from


class ClassifierRecipe(Recipe):
    """A classification run."""

    writes: ClassVar = ("encoder",)

    encoder: str = Field(
        "lookupvit_mini_patch8_96",
        description="architecture, or folder of a trained encoder, or a pretrained model: timm:NAME or timm:FOLDER",
    )
    reduce: Literal["lookup"] | None = Field(
        None,
        description="lookup: LookupViT blocks over a timm: encoder, which stays frozen; None: none",
    )
    model_args: dict[str, Any] = Field({}, description="further arguments of a new encoder, such as Table 5's switches")
    pretrained: bool = Field(False, description="start a new encoder from timm's weights, which may be downloaded")
    init_from: str | None = Field(
        None,
        description="pretrained classifier to take weights from (train/pretrained.py): a ViT for a LookupViT, or the "
        "classifier of a hybrid's trunk",
    )
    freeze_trunk: bool = Field(True, description="keep the weights of a hybrid's trunk")
    teacher: str | None = Field(None, description="pretrained classifier to distil from (train/pretrained.py)")
    teacher_head: Literal["shared", "own"] = Field(
        "shared", description="shared: the teacher has the photos' classes; own: its classes get a separate head"
    )
    teacher_weight: float = Field(0.5, gt=0, le=1, description="share of the distillation loss in the total")
    feature_weight: float = Field(0.0, ge=0, description="weight of the distance from the teacher's pooled features")
    teacher_size: int | None = Field(None, gt=0, description="side of the teacher's input in pixels; None: its default")
    temperature: float = Field(2.0, gt=0, description="temperature of the teacher's and the student's distributions")
    cache_views: int = Field(
        0,
        ge=0,
        description="views per photo whose trunk features and teacher's logits are computed once and cached; "
        "0: computed anew at each step",
    )
    stream: bool = Field(False, description="read the training photos as a stream; set steps unless its size is known")
    shuffle_buffer: int = Field(10_000, gt=0, description="size of a stream's shuffle buffer in photos")
    classes: int | None = Field(None, gt=0, description="number of classes, for a stream that doesn't name them")
    criterion: Literal["softmax", "sigmoid"] = Field(
        "softmax", description="loss on labels; sigmoid decides each class separately (AugReg on ImageNet-21k)"
    )
    image_size: int | None = Field(None, gt=0, description="side of the photos in pixels; None: the encoder's own")
    target: Literal["label", "words"] = Field("label", description="words: those of the photo's captions")
    words: int = Field(1000, gt=0, description="size of the vocabulary, if target is words")
    scale: tuple[float, float] = Field((0.08, 1.0), description="area of the random crop, as a share of the photo")
    hflip: float = Field(0.5, description="probability of a horizontal flip")
    auto_augment: str | None = Field(None, description="policy in timm's notation; AugReg's (2, 10) is rand-n2-m10")
    color_jitter: float | None = None
    mixup: float = Field(0.0, ge=0, description="alpha of mixup; 0: none")
    cutmix: float = Field(0.0, ge=0, description="alpha of cutmix; 0: none")
    smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing, of the softmax loss on one class per photo")
    dropout: float = Field(0.0, ge=0, lt=1)
    drop_path: float = Field(0.0, ge=0, lt=1, description="stochastic depth")
    val_limit: int | None = Field(None, gt=0, description="maximum number of validation images")


class Batch(NamedTuple):
    """uint8 pixels (B, 3, S, S), of clips (B, T, 3, S, S), empty if the caches hold everything; class numbers (B,) or
    weights per class (B, C); places in the caches (B, 3), if there are any."""

    photos: torch.Tensor
    targets: torch.Tensor
    places: torch.Tensor | None = None


class Classification:
    """A `Task` for the loop. Targets are class numbers (cross-entropy) or weights per class (binary cross-entropy)."""

    def __init__(self, recipe: ClassifierRecipe, data: list[str], out: Path):
        self.recipe = recipe
        self.cache_folder = out.parent / "features"  # shared with the runs next to this one
        train, val = self._read(data)
        name = ", ".join(Path(each).name for each in data)
        self.data = [
            Data("train", name, train.images if isinstance(train, LabeledStream) else len(train), train.identity()),
            Data("val", name, len(val), val.identity()),
        ]
        self.multi_label = isinstance(train, LabeledSet) and train.multi_label
        self.binary = self.multi_label or recipe.criterion == "sigmoid"
        self.encoder, fresh = self._encoder(train.classes)
        self.model: nn.Module = self.encoder.model
        self.pixels = self.encoder.pixels
        if recipe.image_size:
            self.pixels = replace(self.pixels, size=recipe.image_size)
        frames = self.encoder.model.frames
        check_kind(recipe.encoder, frames, (train, val))
        check_settings(frames, recipe)
        self.frozen = self._frozen()
        augmentation = augmentation_of(recipe)
        augment, plain = self.pixels.train_transform(**augmentation), self.pixels.eval_transform()
        self.train_set: LabeledPhotos | StreamedPhotos
        if recipe.cache_views:
            self.train_set = self._cached(train, recipe.cache_views, augmentation)
            self.val_set = self._cached(val, 1, {})
        elif frames and isinstance(train, LabeledSet):
            self.train_set, self.val_set = LabeledClips(train, augment, frames), LabeledClips(val, plain, frames)
        else:
            self.val_set = LabeledPhotos(val, plain)
            self.train_set = (
                StreamedPhotos(train, augment, recipe.shuffle_buffer)
                if isinstance(train, LabeledStream)
                else LabeledPhotos(train, augment)
            )
        self.mix = None
        if recipe.mixup or recipe.cutmix:
            self.mix = Mixup(
                mixup_alpha=recipe.mixup,
                cutmix_alpha=recipe.cutmix,
                label_smoothing=0.0 if self.binary else recipe.smoothing,
                num_classes=len(train.classes),
                multi_label=self.multi_label,
            )
        heads = self.model.get_classifier()
        if isinstance(heads, tuple):
            self.model.set_joint_training()
        if self.binary and fresh:  # AugReg's initial bias of the head: most classes are absent from most photos
            prior = torch.full((len(train.classes),), 1 / len(train.classes))
            if isinstance(train, LabeledSet) and train.multi_label:
                prior = train.targets.mean(dim=0)
            for head in heads if isinstance(heads, tuple) else (heads,):
                head.bias.data.copy_(prior.clamp(1e-4, 1 - 1e-4).logit())
        if self.frozen.teacher is not None:
            self.model = self._student(len(train.classes))

    def _read(self, data: list[str]) -> tuple[LabeledSet | LabeledStream, LabeledSet]:
        recipe = self.recipe
        val_limit = recipe.val_limit or recipe.limit
        if recipe.target == "words":
            train = read_words(data, "train", recipe.words, limit=recipe.limit)
            return train, limited(read_words(data, "val", recipe.words, train.classes, recipe.limit), val_limit)
        if recipe.stream:
            if len(data) != 1:
                raise LabelError(f"stream=true takes one --data, not {len(data)}")
            stream = read_stream(data[0], "train", recipe.classes)
            return stream, join_labeled([limited(read_labeled(data[0], "val"), val_limit)], stream.classes)
        train = join_labeled([limited(read_labeled(each, "train"), recipe.limit) for each in data])
        return train, join_labeled([limited(read_labeled(each, "val"), val_limit) for each in data], train.classes)

    def _frozen(self) -> Frozen:
        """The networks that don't learn: a hybrid's trunk if its features are cached, and a teacher."""
        recipe, model = self.recipe, self.encoder.model
        trunk = None
        if model.has_trunk and recipe.freeze_trunk:
            model.freeze_trunk()
            trunk = model.trunk if recipe.cache_views else None
        if recipe.cache_views and (recipe.mixup or recipe.cutmix):
            raise TrainingError("mixup and cutmix need each step's own pixels: set them to 0, or cache_views to 0")
        if recipe.cache_views and trunk is None and not recipe.teacher:
            raise TrainingError(
                "cache_views caches a teacher's logits or a frozen trunk's features; this run has neither: "
                "set cache_views to 0"
            )
        teacher = load_classifier(recipe.teacher) if recipe.teacher else None
        return Frozen(self.pixels, trunk, teacher, recipe.teacher_size, recipe.feature_weight > 0)

    def _cached(self, labeled: LabeledSet | LabeledStream, views: int, augmentation: dict) -> CachedPhotos:
        if isinstance(labeled, LabeledStream):
            raise TrainingError("a stream's photos cannot be cached: set cache_views to 0")
        sources = dict.fromkeys(photos for photos, _ in labeled.photos)
        caches = {
            photos: FrozenCache(
                self.cache_folder,
                photos,
                self.frozen,
                views=views,
                augmentation=augmentation,
                seed=self.recipe.view_seed,
            ).fill()
            for photos in sources
        }
        return CachedPhotos(labeled, caches, pixels=self.frozen.trunk is None)

    def _student(self, classes: int) -> Student:
        shapes = self.frozen.shapes()
        taught, own = shapes[LOGITS][0], self.recipe.teacher_head == "own"
        if not own and taught != classes:
            raise PretrainedError(
                f"teacher {self.recipe.teacher} has {taught} classes, the photos have {classes}: "
                "teacher_head=own gives the teacher's classes a separate head"
            )
        return Student(self.encoder.model, taught if own else 0, shapes.get(POOLED, (0,))[0])

    def _encoder(self, classes: list[str]) -> tuple[Encoder, bool]:
        """Makes the encoder to train; also returns whether its heads are new."""
        model_args: dict[str, Any] = {"proj_drop_rate": self.recipe.dropout, "drop_path_rate": self.recipe.drop_path}
        fresh = True
        if names_timm(self.recipe.encoder):
            encoder = make_encoder(
                self.recipe.encoder, self.recipe.reduce, classes=classes, **{**self.recipe.model_args, **model_args}
            )
        elif self.recipe.reduce:
            raise TrainingError(
                f"reduce=lookup puts blocks over a pretrained model: give encoder=timm:NAME, not {self.recipe.encoder}"
            )
        elif Path(self.recipe.encoder).is_dir():
            if self.recipe.model_args or self.recipe.pretrained:
                raise TrainingError(
                    f"{self.recipe.encoder} is a trained encoder, whose arguments and weights are kept: leave out "
                    "model_args and pretrained"
                )
            old = Encoder.load(self.recipe.encoder)
            encoder = Encoder.create(
                old.config.architecture, classes=classes, pixels=old.pixels, **{**old.config.model_args, **model_args}
            )
            fresh = old.config.classes != classes
            weights = old.model.headless_state_dict() if fresh else old.model.state_dict()
            encoder.model.load_state_dict(weights, strict=False)
        else:
            encoder = Encoder.create(
                self.recipe.encoder,
                classes=classes,
                pretrained=self.recipe.pretrained,
                **{**self.recipe.model_args, **model_args},
            )
        if self.recipe.image_size and not encoder.any_size:
            encoder.set_image_size(self.recipe.image_size)
        if self.recipe.init_from:
            start_from(encoder, self.recipe.init_from)
        return (encoder.set_budgets(self.recipe.budgets) if self.recipe.budgets else encoder), fresh

    @staticmethod  # a data loading process gets this function without the model
    def collate(items: list[tuple[torch.Tensor, ...]]) -> Batch:
        return Batch(*(torch.stack(each) for each in zip(*items, strict=True)))

    def criterion(self, logits: torch.Tensor, target: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        """Mean loss of a batch; targets are class numbers (B,) or weights per class (B, C)."""
        if self.binary:  # summed over the classes: a photo counts once for any number of classes
            if target.ndim == 1:
                target = F.one_hot(target, logits.shape[1]).to(logits)
            return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(dim=-1).mean()
        return F.cross_entropy(logits, target, label_smoothing=0.0 if target.ndim == 2 else smoothing)

    def seen(self, batch: Batch, dataset: Any, device: torch.device) -> torch.Tensor | list[torch.Tensor]:
        """The encoder's input: normalized pixels (B, 3, S, S), of clips (B, 3, T, S, S), or the trunk's features from
        the cache."""
        if isinstance(dataset, CachedPhotos) and not dataset.pixels:
            return [each.to(device) for each in dataset.read(batch.places, self.frozen.maps)]
        return self.encoder.normalize(batch.photos.to(device, non_blocking=True))

    def teacher_outputs(self, batch: Batch, dataset: Any, device: torch.device) -> list[torch.Tensor]:
        """The teacher's logits, and features if wanted, for a batch: from the cache or computed."""
        names = self.frozen.names[len(self.frozen.maps) :]
        if isinstance(dataset, CachedPhotos):
            given = dataset.read(batch.places, names)
        else:
            given = self.frozen.to(device)(batch.photos.to(device))[-len(names) :]
        return [each.to(device) for each in given]

    def loss(self, model: nn.Module, batch: Batch, budget: int | None) -> Loss:
        device, recipe = next(model.parameters()).device, self.recipe
        seen, target = self.seen(batch, self.train_set, device), batch.targets.to(device, non_blocking=True)
        if self.mix:
            seen, target = self.mix(seen, target)
            frozen = self.frozen.to(device)  # the teacher sees the same mixed photos as the student
            batch = batch._replace(photos=(seen * frozen.std + frozen.mean) * 255)
        outputs = model(seen, budget=budget)
        if not isinstance(outputs, Outputs):
            outputs = Outputs(list(outputs) if isinstance(outputs, tuple) else [outputs], [], [])
        own, taught, features = ([each.float() for each in streams] for streams in outputs)
        loss = torch.stack([self.criterion(each, target, recipe.smoothing) for each in own]).mean()
        if taught:
            logits, *pooled = self.teacher_outputs(batch, self.train_set, device)
            loss = torch.lerp(loss, distillation_loss(taught, logits, recipe.temperature), recipe.teacher_weight)
            if features:
                loss = loss + recipe.feature_weight * feature_loss(features, pooled[0])
        return Loss(loss, count=len(target))

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> Evaluation:
        """Loss, and top-1 accuracy or (words) mean average precision, at each of the encoder's budgets."""
        device = next(model.parameters()).device
        budgets = self.encoder.config.budgets
        losses: dict[int, list[float]] = {budget: [] for budget in budgets}
        results: dict[int, list[torch.Tensor]] = {budget: [] for budget in budgets}  # correct or not; words: scores
        targets = []
        mine = share(len(self.val_set))
        for batch in validation_batches(self.val_set, mine, self.collate, self.recipe):
            seen, target = self.seen(batch, self.val_set, device), batch.targets
            targets += target
            for budget in budgets:
                logits = model(seen, budget=budget).float().cpu()
                losses[budget].append(self.criterion(logits, target).item() * len(target))
                results[budget] += logits if self.multi_label else (logits.argmax(dim=1) == target).float()
        if self.multi_label:
            positive = torch.stack(join(targets)) > 0
        figures = {}
        for budget in budgets:
            figures[f"val_loss@{budget}"] = sum(join(losses[budget])) / len(self.val_set)
            scores = torch.stack(join(results[budget]))
            if self.multi_label:
                figures[f"mAP@{budget}"] = mean_average_precision(scores, positive)
            else:
                figures[f"top1@{budget}"] = scores.mean().item()
        return Evaluation(figures)

    def save(self, model: nn.Module, folder: Path) -> None:
        encoder = copy.deepcopy(self.encoder)  # self.encoder holds the raw weights, `model` may be their average
        encoder.model.load_state_dict((model.encoder if isinstance(model, Student) else model).state_dict())
        encoder.config.pixels = self.pixels.to_dict()
        with written_whole(folder / "encoder") as new:
            encoder.save_pretrained(new)


def mean_average_precision(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Area under the precision-recall curve of each class, averaged over the classes that occur.

    Args:
        scores: Score of each class for each photo (n, C); higher is likelier.
        positive: Whether the class is present (n, C), bool.
    """
    order = scores.argsort(dim=0, descending=True)
    hits = positive.gather(0, order).float()
    ranks = torch.arange(1, len(hits) + 1).unsqueeze(1)
    precision = hits.cumsum(dim=0) / ranks
    found = hits.sum(dim=0)
    return ((precision * hits).sum(dim=0) / found.clamp(min=1))[found > 0].mean().item()


def train_classifier(recipe: ClassifierRecipe, data: list[str], out: Path) -> dict[str, float]:
    """Trains an encoder into `out`/encoder; returns the last validation figures."""
    return fit(lambda: Classification(recipe, data, out), recipe, out)
