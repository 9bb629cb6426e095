"""Splits captions into words, in any script.

A word is a run of letters with their combining marks. Chinese, Japanese, Thai and similar scripts have no spaces: there
the pieces of a tokenizer trained on the captions count as words.
"""

import functools
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable

from vlcap.model.tokenizer import WORD_MARK, train_tokenizer

PIECES = 8000  # maximum vocabulary of the tokenizer for captions without spaces
# Thai and Lao, Myanmar, Khmer, kana, Han.
NO_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]+"
)

Split = Callable[[str], set[str]]


def word_splitter(captions: Iterable[str]) -> Split:
    """Makes a function from a caption to its words in lower case; trains a tokenizer if the captions need one."""
    captions = list(captions)
    if not any(NO_SPACES.search(text) for text in captions):
        return _words
    tokenizer = train_tokenizer(captions, PIECES)

    def split(text: str) -> set[str]:
        text = _normal(text)
        pieces = [piece.removeprefix(WORD_MARK) for run in NO_SPACES.findall(text) for piece in tokenizer.tokenize(run)]
        return _words(NO_SPACES.sub(" ", text)) | {piece for piece in pieces if piece[:1].isalpha()}

    return split


def _words(text: str) -> set[str]:
    return set(_word().findall(_normal(text)))


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


@functools.cache
def _word() -> re.Pattern:
    marks = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c)[0] == "M")
    return re.compile(rf"[^\W\d_](?:[^\W\d_]|[{re.escape(marks)}\u200c\u200d])*")
