"""Takes in a pretrained decoder of the GPT-2 family, from the Hugging Face hub or a folder.

    decoder, tokenizer = load_pretrained("distilgpt2", max_length=40)

Everything that decodes captions relies on the special ids of tokenizer.py. So the pieces of the decoder get new ids
once, here: the special pieces come first, and all others follow in their order, with the rows of the embedding that
belong to them. What was a choice of the config, such as another scale of the attention, becomes part of the weights.
The result is like a decoder that `vlcap train decoder` wrote, and nothing else needs to know where it came from.

As for every folder, only JSON and safetensors are read, and checked before memory is allocated (folder.py).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from ..errors import CaptionerError, VlcapError, reason
from .build import decoder_settings
from .byte_level import ByteVocabulary
from .finding import DECODER_FILES, find_folder
from .folder import ModelFolderError, WeightFile, decoder_config, describe_decoder, read_json
from .tokenizer import EOS, PAD, UNK

KEPT = ("n_inner", "activation_function", "layer_norm_epsilon", "tie_word_embeddings")  # settings of the config
EMBEDDING, POSITIONS, HEAD = "transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"


class Order(NamedTuple):
    """Which pieces of the decoder become which of ours.

    Attributes:
        vocabulary: The pieces with our ids.
        ids: The decoder's id of each of our pieces; for padding and unknown, which have no row, that of the end.
        start: The decoder's id of the piece that begins a text.
    """

    vocabulary: ByteVocabulary
    ids: list[int]
    start: int


def load_pretrained(
    name: str | Path, max_length: int, texts: Iterable[str] | None = None
) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerBase]:
    """A pretrained decoder with our special ids and with cross-attention, and its tokenizer.

    Cross-attention has random weights, unless the decoder has some of its own.

    Args:
        name: Folder or hub id.
        max_length: Length of the longest caption in pieces, start and end included: so many positions are kept.
        texts: Texts whose pieces are kept; None for all pieces.

    Raises:
        CaptionerError: There is no such decoder, it is of another family, or its files do not fit together.
    """
    try:
        folder = find_folder(str(name), DECODER_FILES)
        values = read_json(folder / "config.json")
        config = decoder_config(values, cross_attention=values.get("add_cross_attention") is True)
        if max_length > config.n_positions:
            raise ModelFolderError(
                f"it has {config.n_positions} positions, fewer than max_length {max_length}: set max_length to "
                f"{config.n_positions} or less"
            )
        vocabulary = ByteVocabulary.read(folder)
        if (last := max(vocabulary.pieces.values())) >= config.vocab_size:
            raise ModelFolderError(f"its tokenizer has a piece with the id {last}, its config {config.vocab_size} ids")
        order = _order(vocabulary if texts is None else vocabulary.used_by(texts), values)
        weights = _read_weights(folder, config)
    except (OSError, ValueError, VlcapError) as error:
        raise CaptionerError(f"no pretrained decoder can be loaded from {name}: {reason(error)}") from error
    decoder = GPT2LMHeadModel(
        decoder_settings(
            len(order.ids),
            config.n_embd,
            config.n_layer,
            config.n_head,
            dropout=0.0,
            max_length=max_length,
            **further_settings(config),
        )
    )
    _rescale_attention(weights, config)
    _reorder(weights, order, max_length)
    decoder.load_state_dict(weights, strict=config.add_cross_attention)
    return decoder, order.vocabulary.tokenizer()


def further_settings(config: GPT2Config) -> dict[str, Any]:
    """The settings of a decoder's config that our own decoders never change, for `build_model`."""
    return {name: getattr(config, name) for name in KEPT}


def _read_weights(folder: Path, config: GPT2Config) -> dict[str, torch.Tensor]:
    """The weights in float32, with the names that a GPT2LMHeadModel has."""
    file = WeightFile(folder, named=_own_name)
    file.check_depth(config.n_layer)
    weights = {name: weight.float() for name, weight in file.read(describe_decoder(config)).items()}
    if config.tie_word_embeddings:  # then the file may hold one of them or both
        embedding = weights.get(EMBEDDING, weights.get(HEAD))
        assert embedding is not None  # `read` has checked it
        weights |= {EMBEDDING: embedding, HEAD: embedding}
    return weights


def _own_name(stored: str) -> str:
    """The name of a weight in a GPT2LMHeadModel: some files leave out its first part."""
    return stored if stored.startswith(("transformer.", "lm_head.")) else f"transformer.{stored}"


def _order(vocabulary: ByteVocabulary, values: Mapping[str, Any]) -> Order:
    """Gives the special pieces our ids, and all others the following ones in the decoder's order."""
    end = _mark(vocabulary, values, "eos_token")
    if end is None:
        raise ModelFolderError("neither its config nor its tokenizer says which piece ends a text (eos_token)")
    start = _mark(vocabulary, values, "bos_token")
    start = end if start is None else start
    names = {number: name for name, number in vocabulary.pieces.items()}
    taken = {names[start], names[end]}
    specials = {name for name, how in vocabulary.added.items() if how["special"]} - taken
    padding = _name("<pad>", vocabulary, specials, "pad_token")
    unknown = _name("<unk>", vocabulary, specials - {padding}, "unk_token")
    marks = {PAD: padding, EOS: names[end], UNK: unknown}
    others = [names[number] for number in sorted(names) if names[number] not in marks.values()]
    ordered = [marks[place] for place in sorted(marks)] + others
    ids = [vocabulary.pieces[names[end]]] * len(marks) + [vocabulary.pieces[name] for name in others]
    pieces = {name: number for number, name in enumerate(ordered)}
    return Order(replace(vocabulary, pieces=pieces), ids, start)


def _mark(vocabulary: ByteVocabulary, values: Mapping[str, Any], key: str) -> int | None:
    """The id of the piece that begins or ends a text: as the config says, or the tokenizer, or as in GPT-2."""
    said = values.get(f"{key}_id")
    said = said[0] if isinstance(said, list) and said else said
    if isinstance(said, int) and said in vocabulary.pieces.values():
        return said
    return vocabulary.pieces.get(vocabulary.marks.get(key, "<|endoftext|>"))


def _name(usual: str, vocabulary: ByteVocabulary, specials: set[str], key: str) -> str:
    """The vocabulary's own special piece of this kind, or a name that is new to it."""
    for name in (vocabulary.marks.get(key, usual), usual):
        if name in specials:
            return name
    while usual in vocabulary.pieces:
        usual = f"<{usual}>"
    return usual


def _rescale_attention(weights: dict[str, torch.Tensor], config: GPT2Config) -> None:
    """Makes the scale of the attention 1 / sqrt(d), as ours is, by scaling the weights of the queries instead.

    `scale_attn_by_inverse_layer_idx` divides by the number of the layer, counted from 1; without `scale_attn_weights`,
    nothing is divided by sqrt(d). `reorder_and_upcast_attn` is about rounding alone.
    """
    width = config.n_embd
    for layer in range(config.n_layer):
        scale = 1.0 if config.scale_attn_weights else (width // config.n_head) ** 0.5
        scale /= layer + 1 if config.scale_attn_by_inverse_layer_idx else 1
        for name in ("attn.c_attn", "crossattention.q_attn"):
            for part in ("weight", "bias"):
                found = weights.get(f"transformer.h.{layer}.{name}.{part}")
                if found is not None and scale != 1.0:
                    found[..., :width] *= scale


def _reorder(weights: dict[str, torch.Tensor], order: Order, max_length: int) -> None:
    """Gives the rows of embedding and head our order, and keeps the positions of a caption.

    Padding and unknown get the mean of all rows. The logit of such a piece is the mean of all logits, so its
    probability is at most 1 / V (J. Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021). A
    copy of another row would be as likely as that piece, for ever if the rows are frozen.

    A caption begins with EOS. If the decoder begins its texts with another piece, the difference of the two rows is
    added to the first position, where nothing else than the start can be.
    """
    embedding = weights[EMBEDDING]
    positions = weights[POSITIONS][:max_length].clone()
    positions[0] += embedding[order.start] - embedding[order.ids[EOS]]
    weights[POSITIONS] = positions
    ids = torch.tensor(order.ids)
    for name in (EMBEDDING, HEAD):
        rows = weights[name][ids]
        rows[[PAD, UNK]] = torch.cat([rows[EOS : EOS + 1], rows[UNK + 1 :]]).mean(dim=0)
        weights[name] = rows
