"""The tokenizer of captions: SentencePiece, trained on training captions only, saved in Hugging Face's format.

The one place that knows the special token ids. The layout is T5's, because its loader keeps SentencePiece's pieces,
scores and normalization exactly. A captioner whose decoder was pretrained elsewhere has a byte-level vocabulary
(byte_level.py) with the same special ids.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import VlcapError
from ..files.json_file import load_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, EOS, UNK = 0, 1, 2
START = EOS  # as in BART and GPT-2: a caption begins where another one ended
MAX_FILE = 8 * 1024**2  # bytes of each of the tokenizer's files; 4,000 pieces have 0.6 MB
# Letters of a piece, and of all pieces: the library takes up to 400 bytes for each. 32,000 pieces have 0.3 million, and
# the 50,257 of GPT-2 with their merges 0.7 million.
MAX_PIECE, MAX_LETTERS = 512, 1_000_000
WORD_MARK = "\u2581"  # SentencePiece's mark of a piece that begins a word


class TokenizerError(VlcapError, ValueError):
    """No tokenizer can be made of these captions, or of this folder. The message says why."""


def normalize_caption(text: str, lowercase: bool = True) -> str:
    """A caption on one line, in lower case, without space before punctuation or a full stop. CIDEr ignores them all."""
    text = re.sub(r"\s+([.,;:!?'])", r"\1", " ".join(text.split())).rstrip(" .")
    return text.lower() if lowercase else text


def one_line(text: str) -> str:
    """A decoded caption without line breaks, which a decoder that was pretrained on other texts can write."""
    return " ".join(filter(None, map(str.strip, text.splitlines())))


def train_tokenizer(captions: Iterable[str], vocab_size: int, lowercase: bool = True) -> PreTrainedTokenizerBase:
    """A unigram SentencePiece tokenizer of these captions. It is smaller if they do not have so many pieces.

    Raises:
        TokenizerError: The captions have more different letters than the tokenizer may have pieces, or no letters.
    """
    import sentencepiece
    from transformers import T5Tokenizer

    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "captions.txt"
        text.write_text("\n".join(normalize_caption(caption, lowercase) for caption in captions), encoding="utf-8")
        try:
            sentencepiece.SentencePieceTrainer.train(
                input=str(text),
                model_prefix=str(Path(folder) / "spiece"),
                vocab_size=vocab_size,
                model_type="unigram",
                normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
                pad_id=PAD,
                eos_id=EOS,
                unk_id=UNK,
                bos_id=-1,
                hard_vocab_limit=False,
                num_threads=1,  # the result must not depend on the machine
                minloglevel=2,
            )
        except RuntimeError as error:
            if match := re.search(r"required_chars\. \d+ vs (\d+)", str(error)):
                raise TokenizerError(
                    f"vocab_size {vocab_size} is too small for the letters of these captions: "
                    f"set it to at least {int(match[1]) + 1}"
                ) from None
            raise TokenizerError(f"no tokenizer can be made of these captions: {error}") from None
        text.unlink()
        # From the folder, not the file: for a file, T5Tokenizer silently makes an empty vocabulary.
        return T5Tokenizer.from_pretrained(folder, extra_ids=0)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, which may be a stranger's.

    AutoTokenizer is not used, because the files of the folder would tell it which class and which code to load.
    `extra_ids` is set, because a file could ask for any number, and Hugging Face would count up to it.

    Raises:
        TokenizerError, JsonError: Its files are too large to be built, or one is not JSON.
    """
    from transformers import T5Tokenizer

    from .byte_level import load_byte_level

    folder = Path(folder)
    if kind_of(check_size(folder).get("tokenizer.json")) == "BPE":
        return load_byte_level(folder)
    return T5Tokenizer.from_pretrained(folder, local_files_only=True, extra_ids=0)


def kind_of(content: Any) -> str | None:
    """The kind of the tokenizer that tokenizer.json describes: Unigram for ours, BPE for GPT-2's; None if unknown."""
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        return None
    return model.get("type") or ("BPE" if "merges" in model else None)  # older files do not say it


def check_size(folder: Path) -> dict[str, Any]:
    """Refuses a tokenizer with pieces so long, or so many, that building it would fill the memory.

    Returns:
        What the tokenizer's files hold, by their names; only of those that exist.

    Raises:
        TokenizerError: They are.
        JsonError: One of the files is too large or not JSON.
    """
    contents = {}
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (folder / name).exists():
            contents[name] = content = load_json(folder / name, max_bytes=MAX_FILE, name=name)
            if isinstance(content, dict):
                content = {key: value for key, value in content.items() if key != "normalizer"}  # a table, not pieces
            check_letters(name, content)
    return contents


def check_letters(name: str, content: Any) -> None:
    """Refuses the content of a tokenizer's file with too many letters in a piece, or in all pieces together.

    Raises:
        TokenizerError: It has.
    """
    lengths = [len(text) for text in _texts(content)]
    if max(lengths, default=0) > MAX_PIECE:
        raise TokenizerError(f"{name}: a piece of {max(lengths):,} letters, the limit is {MAX_PIECE}")
    if sum(lengths) > MAX_LETTERS:
        raise TokenizerError(f"{name}: {sum(lengths):,} letters in all pieces, the limit is {MAX_LETTERS:,}")


def _texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value, names of settings included."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            left += [*each, *each.values()]
        elif isinstance(each, list):
            left += each
