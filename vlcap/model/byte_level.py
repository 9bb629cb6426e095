"""Byte-level vocabularies, as GPT-2 has one: byte pairs that are merged in the order of their frequency.

Sennrich et al., arXiv 1508.07909, on bytes as in section 2.2 of the GPT-2 paper (Radford et al., 2019). A captioner
with a pretrained decoder has such a vocabulary. Its special pieces have the ids that tokenizer.py gives them.

In the name of a piece each byte is a letter: bytes that are no visible letter of Latin-1 have the letters from U+0100
on, so a space is "Ġ". A letter of two to four bytes can lie in several pieces.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ..files.json_file import load_json
from .tokenizer import EOS, MAX_FILE, PAD, UNK, WORD_MARK, TokenizerError, check_letters, check_size, kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VISIBLE = (*range(33, 127), *range(161, 173), *range(174, 256))
HIDDEN = [byte for byte in range(256) if byte not in VISIBLE]
BYTES = {chr(byte): byte for byte in VISIBLE} | {chr(256 + place): byte for place, byte in enumerate(HIDDEN)}
MATCHING = ("single_word", "lstrip", "rstrip", "normalized", "special")  # how an added piece is found in a text


def is_byte_level(tokenizer: Tokenizer) -> bool:
    """Whether the names of a tokenizer's pieces are bytes."""
    return isinstance(tokenizer.decoder, decoders.ByteLevel)


def piece_texts(names: Sequence[str]) -> list[str]:
    """Names of the pieces of a caption -> their texts, with SentencePiece's mark where a word begins.

    A letter that lies in several pieces belongs to the last of them.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts = []
    for name in names:
        plain = BYTES.keys() >= set(name)
        text = decoder.decode(bytes(BYTES[letter] for letter in name)) if plain else name
        texts.append(WORD_MARK + text.lstrip() if text[:1].isspace() else text)
    if texts:
        texts[-1] += decoder.decode(b"", final=True)
    return texts


@dataclass(frozen=True)
class ByteVocabulary:
    """The pieces of a byte-level tokenizer.

    Attributes:
        pieces: Id of each piece by its name.
        merges: Pairs of pieces that become one, the first to be merged first.
        prefix_space: Whether a text gets a space at its beginning, like every other word.
        added: Pieces that are found in a text as they stand, before anything is merged: how each is found, by its name.
        marks: Names of special pieces that the files tell: eos_token, bos_token, pad_token, unk_token.
    """

    pieces: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    prefix_space: bool = False
    added: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> ByteVocabulary:
        """The vocabulary in a folder: tokenizer.json, or the older vocab.json with merges.txt.

        Raises:
            TokenizerError, JsonError: A file is missing, damaged or too large, or the tokenizer is not GPT-2's kind.
        """
        contents = check_size(folder)
        settings: dict[str, Any] = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            if isinstance(found := contents.get(name), dict):
                settings |= found
        content = contents.get("tokenizer.json")
        content = _older(folder, settings, contents.get("added_tokens.json")) if content is None else content
        try:
            model = _checked(content)
            pieces, merges = model["vocab"], [_pair(merge) for merge in model["merges"]]
            entries = content.get("added_tokens") or []
            added = {entry["content"]: {key: bool(entry.get(key)) for key in MATCHING} for entry in entries}
            pieces = pieces | {entry["content"]: entry["id"] for entry in entries}
            prefix_space = bool(content["pre_tokenizer"].get("add_prefix_space"))
            _check_pieces(pieces, merges)
        except TokenizerError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise TokenizerError(f"its tokenizer is damaged ({' '.join(repr(error).split()):.200})") from None
        marks = {}
        for key in ("eos_token", "bos_token", "pad_token", "unk_token"):
            told = settings.get(key)
            content = told.get("content") if isinstance(told, dict) else told
            if isinstance(content, str) and content in pieces:
                marks[key] = content
        return cls(pieces, merges, prefix_space, added, marks)

    def used_by(self, texts: Iterable[str]) -> ByteVocabulary:
        """Only the pieces of these texts, the pieces that those are merged from, and all single bytes.

        These texts are cut into the same pieces as before: all merges that lead to them are kept, in their order. Any
        other text is cut into more pieces.
        """
        tokenizer = Tokenizer(models.BPE(vocab=dict(self.pieces), merges=[*self.merges]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=self.prefix_space)
        kept = {piece for text in texts for piece in tokenizer.encode(text).tokens}
        kept |= BYTES.keys() | self.added.keys() | set(self.marks.values())
        for left, right in reversed(self.merges):
            if left + right in kept:
                kept |= {left, right}
        pieces = {name: number for name, number in self.pieces.items() if name in kept}
        return replace(self, pieces=pieces, merges=[pair for pair in self.merges if "".join(pair) in kept])

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, if the special pieces have our ids. As ours, it puts the end after each text."""
        from tokenizers import AddedToken
        from tokenizers.processors import TemplateProcessing
        from transformers import GPT2Tokenizer

        names = {number: name for name, number in self.pieces.items()}
        tokenizer = GPT2Tokenizer(
            vocab=dict(self.pieces),
            merges=[*self.merges],
            bos_token=names[EOS],
            eos_token=names[EOS],
            unk_token=names[UNK],
            pad_token=names[PAD],
            add_prefix_space=self.prefix_space,
        )
        tokenizer.add_tokens([AddedToken(name, **how) for name, how in self.added.items()])
        end = TemplateProcessing(single=["$A", names[EOS]], special_tokens=[(names[EOS], EOS)])
        tokenizer.backend_tokenizer.post_processor = end
        return tokenizer


def load_byte_level(folder: Path) -> PreTrainedTokenizerBase:
    """The byte-level tokenizer in a captioner folder.

    It is made of the checked pieces and merges. Hugging Face's loader would open a file that tokenizer.json names
    in the place of its pieces.

    Raises:
        TokenizerError, JsonError: The tokenizer is damaged, too large, or lacks a special piece.
    """
    vocabulary = ByteVocabulary.read(folder)
    if missing := sorted({PAD, EOS, UNK} - set(vocabulary.pieces.values())):
        raise TokenizerError(f"its tokenizer has no piece with the id {missing[0]}")
    return vocabulary.tokenizer()


def _older(folder: Path, settings: Mapping[str, Any], added: Any) -> dict[str, Any]:
    """vocab.json, merges.txt and added_tokens.json, as tokenizer.json would have them."""
    try:
        with open(folder / "merges.txt", encoding="utf-8") as file:
            text = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise TokenizerError(f"no tokenizer.json in it, and merges.txt cannot be read ({reason})") from None
    if len(text) > MAX_FILE:
        raise TokenizerError(f"merges.txt: too large, the limit is {MAX_FILE // 1024**2} MB")
    merges = [line for line in text.split("\n") if line and not line.startswith("#version")]
    content: dict[str, Any] = {
        "model": {"vocab": load_json(folder / "vocab.json", MAX_FILE, name="vocab.json"), "merges": merges},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": settings.get("add_prefix_space")},
        "decoder": {"type": "ByteLevel"},
    }
    check_letters("vocab.json and merges.txt", content)
    if isinstance(added, dict):
        content["added_tokens"] = [{"content": name, "id": number, "special": True} for name, number in added.items()]
    return content


def _checked(content: Any) -> dict[str, Any]:
    """The model in a tokenizer.json, if this file can do all that it asks for.

    Raises:
        TokenizerError: It is not GPT-2's kind. The message says what differs.
    """
    model, cutter = content["model"], content.get("pre_tokenizer") or {}
    kinds = {
        "model": kind_of(content),
        "pre_tokenizer": cutter.get("type"),
        "decoder": (content.get("decoder") or {}).get("type"),
    }
    wanted = {"model": "BPE", "pre_tokenizer": "ByteLevel", "decoder": "ByteLevel"}
    others = {name: kind for name, kind in kinds.items() if kind != wanted[name]}
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
        others |= {name: model[name]} if model.get(name) else {}
    if content.get("normalizer"):
        others["normalizer"] = content["normalizer"].get("type")
    if not cutter.get("use_regex", True):
        others["use_regex"] = False
    if others:
        told = ", ".join(f"{name} {kind}" for name, kind in others.items())
        raise TokenizerError(f"its tokenizer is not the byte-level one of GPT-2 ({told:.200})")
    return model


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _check_pieces(pieces: Mapping[Any, Any], merges: Sequence[tuple[Any, Any]]) -> None:
    """Refuses ids that are no ids, two pieces with one id, and merges of pieces that are not there."""
    for name, number in pieces.items():
        if not isinstance(name, str) or not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise TokenizerError(f"its tokenizer has a piece {name!r:.100} with the id {number!r:.100}")
    if len(set(pieces.values())) < len(pieces):
        raise TokenizerError("its tokenizer has two pieces with the same id")
    if missing := BYTES.keys() - pieces.keys():
        raise TokenizerError(f"its tokenizer lacks {len(missing)} of the 256 bytes, so it cannot write every text")
    for left, right in merges:
        if not {left, right, f"{left}{right}"} <= pieces.keys():
            raise TokenizerError(f"its tokenizer merges {left!r:.100} and {right!r:.100}, which are not all pieces")
