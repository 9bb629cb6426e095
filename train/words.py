"""Words of captions, in any script.

Letters with the marks that belong to them make a word. Chinese, Japanese, Thai and the like are written without
spaces: there the pieces of a tokenizer that was trained on the captions stand for words.
"""

import functools
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable

from vlcap.model.tokenizer import WORD_MARK, train_tokenizer

PIECES = 8000  # of a tokenizer for captions without spaces, at most
# Thai and Lao, Myanmar, Khmer, kana, Han.
NO_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]+"
)

Split = Callable[[str], set[str]]


def word_splitter(captions: Iterable[str]) -> Split:
    """A function from a caption to its words, in lower case; where the captions need it, with a tokenizer of them."""
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
