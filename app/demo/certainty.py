"""How sure a captioner was of each word of its caption."""

import math

from vlcap.attention import words_of
from vlcap.captioner import Caption, Captioner


def words_with_probability(captioner: Captioner, caption: Caption) -> list[tuple[str, float]]:
    """The words of a caption, each with its probability: the product of its pieces'."""
    return [
        (word, math.exp(sum(caption.logprobs[place] for place in places if place < len(caption.logprobs))))
        for word, places in words_of(captioner, caption.ids)
    ]
