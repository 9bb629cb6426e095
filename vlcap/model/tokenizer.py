"""The captions' tokenizer: SentencePiece, trained on training captions only, saved the Hugging Face way.

The one place that knows the special token ids. The layout is T5's: its loader is the one that keeps SentencePiece's
pieces, scores and normalisation exactly.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import VlcapError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, EOS, UNK = 0, 1, 2
START = EOS  # as BART and GPT-2 have it: a caption begins where another ended
WORD_MARK = "\u2581"  # SentencePiece's: the piece begins a word


class TokenizerError(VlcapError, ValueError):
    """Captions that no tokenizer can be made of as asked: why, and what to set."""


def normalise_caption(text: str, lowercase: bool = True) -> str:
    """One line, lower case, no space before punctuation, no full stop at the end: nothing that CIDEr would see."""
    text = re.sub(r"\s+([.,;:!?'])", r"\1", " ".join(text.split())).rstrip(" .")
    return text.lower() if lowercase else text


def train_tokenizer(captions: Iterable[str], vocab_size: int, lowercase: bool = True) -> PreTrainedTokenizerBase:
    """A unigram SentencePiece tokenizer of these captions; smaller than asked where they don't give so many pieces.

    Raises:
        TokenizerError: There are more different letters than pieces asked for, or no letters at all.
    """
    import sentencepiece
    from transformers import T5Tokenizer

    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "captions.txt"
        text.write_text("\n".join(normalise_caption(caption, lowercase) for caption in captions), encoding="utf-8")
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
        # From the folder, not the file: given a file, T5Tokenizer makes an empty vocabulary without a word.
        return T5Tokenizer.from_pretrained(folder, extra_ids=0)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Not by AutoTokenizer: that would look for the class, and for code, where the folder's files say.

    Nor with as many `extra_ids`, T5's own, as a stranger's file may ask for: Hugging Face would count up to it.
    """
    from transformers import T5Tokenizer

    return T5Tokenizer.from_pretrained(folder, local_files_only=True, extra_ids=0)
