"""What a captioner's decoder starts from: random weights, a decoder of `train decoder`, or a pretrained GPT-2.

vlcap train captioner --encoder RUN/encoder --decoder distilgpt2 --data DIR --out RUN2
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase, VisionEncoderDecoderModel

from vlcap.errors import VlcapError
from vlcap.files.json_file import load_json
from vlcap.files.writing import written_whole
from vlcap.model.build import build_model
from vlcap.model.encoder import Encoder
from vlcap.model.loading import load_decoder
from vlcap.model.pretrained_decoder import further_settings, load_pretrained
from vlcap.model.tokenizer import MAX_FILE, kind_of, load_tokenizer, normalize_caption, train_tokenizer

from .run_folder import TrainingError, knows_data

if TYPE_CHECKING:
    from .captioner import CaptionerRecipe

RANDOM = "random"  # in place of a decoder's name


def is_pretrained(decoder: str | None) -> bool:
    """Whether this names a decoder with a vocabulary of its own, and not one that `train decoder` wrote, or none."""
    if decoder is None or decoder == RANDOM:
        return False
    folder = Path(decoder)
    if not folder.is_dir():
        return decoder.count("/") < 2 and not decoder.startswith((".", "/", "~"))  # a hub id: NAME or OWNER/NAME
    return (folder / "vocab.json").is_file() or _kind(folder) not in (None, "Unigram")


def keeps_case(decoder: Any, start_from: Any) -> bool:
    """Whether captions keep their case if the recipe does not say it: with the vocabulary of a pretrained decoder."""
    if isinstance(start_from, str):
        return Path(start_from).is_dir() and is_pretrained(start_from)
    return isinstance(decoder, str) and is_pretrained(decoder)


def _kind(folder: Path) -> str | None:
    try:
        return kind_of(load_json(folder / "tokenizer.json", MAX_FILE))
    except VlcapError:  # whoever loads it says what is wrong with it
        return None


def check_decoder(recipe: CaptionerRecipe) -> None:
    """Refuses settings of the decoder that do not go together.

    Raises:
        TrainingError: The message says which.
    """
    given = recipe.decoder or recipe.start_from
    if not given and (recipe.freeze_decoder or recipe.lora_rank):
        name = "lora_rank" if recipe.lora_rank else "freeze_decoder"
        raise TrainingError(f"{name} freezes the decoder, and random weights would never learn: give a decoder")
    if recipe.vocab == "used" and not is_pretrained(recipe.decoder):
        raise TrainingError("vocab=used is for pretrained decoders; vocab_size limits the vocabulary of others")


def new_captioner(
    recipe: CaptionerRecipe, encoder: Encoder, captions: Iterable[str], out: Path
) -> tuple[VisionEncoderDecoderModel, PreTrainedTokenizerBase]:
    """A captioning model before its first step, and its tokenizer.

    Args:
        recipe: The settings.
        encoder: A trained encoder.
        captions: The captions to learn from.
        out: Folder of the run.

    Raises:
        CaptionerError: The decoder cannot be loaded.
        TokenizerError: No tokenizer can be made of the captions.
    """
    shape: dict[str, Any] = {"dropout": recipe.dropout}
    if recipe.decoder is None:
        tokenizer = _tokenizer(recipe, captions, out / "tokenizer")
        shape |= {name: getattr(recipe, name) for name in ("width", "layers", "heads", "max_length")}
        return build_model(encoder, vocab_size=len(tokenizer), **shape), tokenizer
    if is_pretrained(recipe.decoder):
        used = (normalize_caption(text, recipe.lowercase) for text in captions) if recipe.vocab == "used" else None
        decoder, tokenizer = load_pretrained(recipe.decoder, recipe.max_length, used)
    else:
        decoder, tokenizer = load_decoder(recipe.decoder)
    own = decoder.config
    shape |= {"width": own.n_embd, "layers": own.n_layer, "heads": own.n_head, "max_length": own.n_positions}
    model = build_model(encoder, vocab_size=own.vocab_size, **shape, **further_settings(own))
    model.decoder.load_state_dict(decoder.state_dict())
    return model, tokenizer


def _tokenizer(recipe: CaptionerRecipe, captions: Iterable[str], folder: Path) -> PreTrainedTokenizerBase:
    if not (knows_data(folder.parent) and (folder / "tokenizer.json").is_file()):
        with written_whole(folder) as new:
            train_tokenizer(captions, recipe.vocab_size, recipe.lowercase).save_pretrained(new)
    return load_tokenizer(folder)
