"""The text trainer: a decoder learns the language of captions before it sees photos.

    vlcap train decoder --recipe caption-text --data captions.json.gz --data COCO --hold-out COCO --out runs/decoder
    vlcap train captioner --set decoder=runs/decoder/decoder --encoder RUN/encoder --data COCO --out RUN2

Captions without photos are easier to find than captioned photos. A captioner's decoder reads a photo's compressed
tokens; here it reads a single learned token that means "no photo". RUN/decoder is a Hugging Face GPT-2 folder with its
tokenizer.
"""

import contextlib
import gzip
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from pydantic import Field
from torch.utils.data import Dataset
from transformers import GPT2LMHeadModel, PreTrainedTokenizerBase

from vlcap.data.captions import CaptionDataError, MissingSplit, read_captions, read_coco_captions
from vlcap.files.writing import written_whole
from vlcap.model.build import decoder_settings
from vlcap.model.tokenizer import PAD, START, load_tokenizer, normalize_caption, train_tokenizer
from vlcap.processes import join, share

from .batches import validation_batches
from .loop import Evaluation, Loss, TrainingError, fit
from .recipe import Recipe
from .run_folder import Data, knows_data

IGNORE = -100  # target that cross-entropy ignores
SAMPLES = 3  # captions that an evaluation samples and shows


class DecoderRecipe(Recipe):
    """A run on captions without photos."""

    writes: ClassVar = ("decoder", "tokenizer")

    batch_size: int = Field(1, gt=0, description="groups per step, over all processes")
    group: int = Field(64, gt=0, description="captions of similar length drawn together, to limit padding")
    hold_out: list[str] = Field(
        [],
        description="folders of captioned photos: the captions of their val and test splits are excluded from "
        "training, and those of val evaluate the run",
    )
    vocab_size: int = Field(4000, gt=0, description="maximum number of SentencePiece pieces")
    lowercase: bool = Field(True, description="convert captions to lower case")
    max_length: int = Field(32, gt=1, description="maximum length of a caption in pieces, with start and end")
    width: int = Field(384, gt=0)
    layers: int = Field(2, gt=0)
    heads: int = Field(6, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    smoothing: float = Field(0.1, ge=0, lt=1, description="label smoothing")


class Texts(NamedTuple):
    """Input pieces and target pieces, (B, L) each."""

    inputs: torch.Tensor
    targets: torch.Tensor


def shift(captions: Sequence[Sequence[int]]) -> Texts:
    """Captions' pieces, each with its end, as a padded batch of inputs and targets shifted by one."""
    length = max(map(len, captions))
    inputs = torch.full((len(captions), length), PAD)
    targets = torch.full((len(captions), length), IGNORE)
    for row, pieces in enumerate(captions):
        targets[row, : len(pieces)] = torch.tensor(pieces)
        inputs[row, : len(pieces)] = torch.tensor([START, *pieces[:-1]])
    return Texts(inputs, targets)


class TextGroups(Dataset):
    """Captions in groups of similar length: an item is a group's pieces."""

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, group: int):
        pieces = tokenizer(list(texts), truncation=True, max_length=max_length - 1)["input_ids"]
        pieces.sort(key=len)
        self.groups = [pieces[i : i + group] for i in range(0, len(pieces), group)]

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, i: int) -> list[list[int]]:
        return self.groups[i]


class TextModel(nn.Module):
    """A decoder that reads one learned token instead of a photo's tokens."""

    def __init__(self, decoder: GPT2LMHeadModel):
        super().__init__()
        self.decoder = decoder
        self.no_photo = nn.Parameter(torch.randn(1, 1, decoder.config.n_embd) * 0.02)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Pieces (B, L) -> logits (B, L, V)."""
        photo = self.no_photo.expand(len(inputs), -1, -1)
        # All ones: causal attention never sees the padding after a caption.
        return self.decoder(
            input_ids=inputs, attention_mask=torch.ones_like(inputs), encoder_hidden_states=photo
        ).logits


class TextTask:
    """A `Task` for the loop."""

    def __init__(self, recipe: DecoderRecipe, data: list[str], out: Path):
        self.recipe = recipe
        held_out: dict[str, list[str]] = {"val": [], "test": []}
        for folder in recipe.hold_out:
            held_out["val"] += read_texts(folder, "val")
            with contextlib.suppress(MissingSplit):
                held_out["test"] += read_texts(folder, "test")
        if not held_out["val"]:
            raise TrainingError("no data to evaluate on: --hold-out FOLDER names captioned photos with a val split")
        known = {_key(text) for texts in held_out.values() for text in texts}
        texts = [text for source in data for text in read_texts(source, "train")]
        texts = sorted({normalize_caption(text, recipe.lowercase) for text in texts if _key(text) not in known})
        self.data = [_data("train", ", ".join(data), texts), _data("val", ", ".join(recipe.hold_out), held_out["val"])]
        if not texts:
            raise TrainingError(f"no captions to learn from in {', '.join(data)}")
        if not (knows_data(out) and (out / "tokenizer" / "tokenizer.json").is_file()):
            with written_whole(out / "tokenizer") as new:
                train_tokenizer(texts, recipe.vocab_size, recipe.lowercase).save_pretrained(new)
        self.tokenizer = load_tokenizer(out / "tokenizer")
        if recipe.limit:
            texts, held_out["val"] = texts[: recipe.limit], held_out["val"][: recipe.limit]
        self.train_set = TextGroups(texts, self.tokenizer, recipe.max_length, recipe.group)
        val = [normalize_caption(text, recipe.lowercase) for text in held_out["val"]]
        self.val_set = TextGroups(val, self.tokenizer, recipe.max_length, recipe.group)
        self.model = TextModel(
            GPT2LMHeadModel(
                decoder_settings(
                    len(self.tokenizer), recipe.width, recipe.layers, recipe.heads, recipe.dropout, recipe.max_length
                )
            )
        )

    @staticmethod  # a data loading process gets this function without the model
    def collate(items: list[list[list[int]]]) -> Texts:
        return shift([pieces for group in items for pieces in group])

    def loss(self, model: nn.Module, batch: Texts, budget: int | None) -> Loss:
        return self._cross_entropy(model, batch, self.recipe.smoothing)

    def _cross_entropy(self, model: nn.Module, batch: Texts, smoothing: float) -> Loss:
        device = next(model.parameters()).device
        targets = batch.targets.to(device)
        logits = model(batch.inputs.to(device))
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), label_smoothing=smoothing)
        return Loss(loss, count=int((targets != IGNORE).sum()))

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> Evaluation:
        """Cross-entropy of the held-out captions, and a few captions sampled from the decoder."""
        total, pieces = 0.0, 0
        mine = share(len(self.val_set))
        for batch in validation_batches(self.val_set, mine, self.collate, self.recipe):
            loss, count = self._cross_entropy(model, batch, smoothing=0.0)
            total, pieces = total + loss.item() * count, pieces + count
        sampled = (self.tokenizer.decode(ids, skip_special_tokens=True) for ids in self._sample(model))
        return Evaluation({"val_loss": sum(join([total])) / sum(join([pieces]))}, list(sampled))

    def _sample(self, model: nn.Module) -> list[list[int]]:
        ids = torch.full((SAMPLES, 1), START, device=next(model.parameters()).device)
        for _ in range(self.recipe.max_length - 1):
            ids = torch.cat([ids, model(ids)[:, -1].float().softmax(dim=-1).multinomial(1)], dim=1)
        rows = ids[:, 1:].tolist()
        return [row[: row.index(START)] if START in row else row for row in rows]  # START also ends a caption

    def save(self, model: nn.Module, folder: Path) -> None:
        with written_whole(folder / "decoder") as new:
            model.decoder.save_pretrained(new)
            self.tokenizer.save_pretrained(new)


def read_texts(source: str, split: str) -> list[str]:
    """Reads captions without their photos.

    Args:
        source: COCO caption file (.json), text file of one caption per line (.txt), either also with .gz, or folder of
            captioned photos in any layout of `vlcap.data.captions`.
        split: Split of a folder; files are read whole.

    Raises:
        CaptionDataError: The source is none of these, or it is damaged.
    """
    path = Path(source)
    if path.is_dir():
        return [text for captions in read_captions(path, split).captions for text in captions]
    kind = path.name.removesuffix(".gz")
    if kind.endswith(".json") and path.suffix != ".gz":
        return [text for captions in read_coco_captions(path).values() for text in captions]
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
            if kind.endswith(".txt"):
                return [line for line in file.read().splitlines() if line.strip()]
            if kind.endswith(".json"):
                return [each["caption"] for each in json.load(file)["annotations"]]
    except OSError as error:
        raise CaptionDataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise CaptionDataError(f"{path}: no captions in it ({' '.join(str(error).split()):.200})") from None
    raise CaptionDataError(
        f"{path}: expected a folder of captioned photos, or a .json or .txt file, which may end in .gz"
    )


def _data(split: str, name: str, texts: Sequence[str]) -> Data:
    return Data(split, name, len(texts), hashlib.sha256("\n".join(texts).encode()).hexdigest())


def _key(text: str) -> str:
    """A sentence without case and punctuation, to find duplicates."""
    return "".join(each if each.isalnum() else " " for each in text.lower()).strip()


def train_decoder(recipe: DecoderRecipe, data: Iterable[str], out: Path) -> dict[str, float]:
    """Trains a decoder into `out`/decoder; returns the last validation figures."""
    return fit(lambda: TextTask(recipe, list(data), out), recipe, out)
