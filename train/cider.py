"""CIDEr-D with given document frequencies: a reward for training. For evaluation use `vlcap.evaluation.metrics`.

R. Vedantam et al., "CIDEr: Consensus-based image description evaluation", CVPR 2015, arXiv 1411.5726. pycocoevalcap
takes document frequencies from the set it scores; a reward takes them from the training captions, once. With the same
frequencies the two agree. Tokens are any hashable values: words, or ids of pieces, including the end of sentence.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

N = 4  # n-grams of 1 to 4 tokens
SIGMA = 6.0  # width of the length penalty

Tokens = Sequence[Hashable]


class Vector(NamedTuple):
    """One caption: tf-idf weights and norm for each n, and its length in bigrams, as pycocoevalcap counts."""

    weights: list[dict[tuple, float]]
    norms: list[float]
    length: int


class CiderD:
    """Scores captions of the images of one corpus.

    Args:
        corpus: Reference captions of each image, each a sequence of tokens.
    """

    def __init__(self, corpus: Sequence[Sequence[Tokens]]):
        self.corpus = corpus
        self.log_images = math.log(len(corpus))
        frequency = Counter(gram for captions in corpus for gram in set().union(*(ngrams(c) for c in captions)))
        self.log_frequency = {gram: math.log(count) for gram, count in frequency.items()}
        self._references: dict[int, list[Vector]] = {}

    def score(self, image: int, caption: Tokens) -> float:
        """CIDEr-D of a caption against the references of image number `image`; from 0 to 10."""
        if image not in self._references:
            self._references[image] = [self._vector(reference) for reference in self.corpus[image]]
        references, mine = self._references[image], self._vector(caption)
        return 10 * sum(similarity(mine, reference) for reference in references) / len(references)

    def _vector(self, caption: Tokens) -> Vector:
        weights: list[dict[tuple, float]] = [{} for _ in range(N)]
        for gram, count in ngrams(caption).items():
            weights[len(gram) - 1][gram] = count * (self.log_images - self.log_frequency.get(gram, 0.0))
        norms = [math.sqrt(sum(weight**2 for weight in each.values())) for each in weights]
        return Vector(weights, norms, length=max(0, len(caption) - 1))


def ngrams(caption: Tokens) -> Counter:
    return Counter(tuple(caption[i : i + n]) for n in range(1, N + 1) for i in range(len(caption) - n + 1))


def similarity(caption: Vector, reference: Vector) -> float:
    """Mean over n of the clipped cosine, times the Gaussian length penalty."""
    total = 0.0
    for mine, theirs, my_norm, their_norm in zip(
        caption.weights, reference.weights, caption.norms, reference.norms, strict=True
    ):
        if my_norm and their_norm:
            shared = sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in mine.items() if gram in theirs)
            total += shared / (my_norm * their_norm)
    return total / N * math.exp(-((caption.length - reference.length) ** 2) / (2 * SIGMA**2))
