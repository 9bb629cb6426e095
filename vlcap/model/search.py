"""Greedy and beam search over the pieces of a caption, in plain Python: which beams go on and which have ended.

PyTorch (decoding.py) or ONNX Runtime (onnx_captioner.py) computes the scores. Each photo has a search of its own:

    photo = search.start()
    while not photo.done:
        ...                                     # scores of the pieces that may follow each of photo.running
        scores = search.adjust(scores, photo.running)
        photo.advance(values, places, vocab_size)
    photo.best

The rules are Hugging Face's, so the captions are those that `generate` finds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

from .tokenizer import EOS, PAD, START


@dataclass(frozen=True)
class Search:
    """Settings of a search, with Hugging Face's names and meanings."""

    max_new_tokens: int
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    repetition_penalty: float = 1.0

    def start(self) -> Union["Greedy", "Beams"]:
        """The search of one photo, before its first step."""
        return Greedy(self) if self.num_beams == 1 else Beams(self)

    def adjust(self, scores: Any, running: Sequence[Sequence[int]]) -> Any:
        """Scores with those of repeated pieces lowered, as in CTRL (arXiv 1909.05858), and no end before the minimum.

        Works on PyTorch tensors and NumPy arrays alike, by the operations that both have.

        Args:
            scores: Scores of the next piece, (R, V), negative or positive. They are changed in place.
            running: The R captions so far, all of one length.
        """
        if self.repetition_penalty != 1.0:
            written = [[row] for row in range(len(running))], [list(ids) for ids in running]  # (R, 1) and (R, T)
            repeated = scores[written]  # a copy, (R, T)
            negative = repeated < 0
            repeated[negative] *= self.repetition_penalty
            repeated[~negative] /= self.repetition_penalty
            scores[written] = repeated
        if len(running[0]) <= self.min_new_tokens:  # the start does not count
            scores[:, EOS] = float("-inf")
        return scores


class Greedy:
    """Greedy search for one photo: the likeliest piece comes next."""

    def __init__(self, search: Search):
        self.limit = 1 + search.max_new_tokens
        self.running: list[tuple[int, ...]] = [(START,)]
        self.done = False

    @property
    def best(self) -> tuple[int, ...]:
        return self.running[0]

    @property
    def leader(self) -> tuple[int, ...]:
        return self.running[0]

    def advance(self, values: Sequence[float], places: Sequence[int], vocab_size: int) -> None:
        """Adds the chosen piece; after the end, padding, until the batch is compacted."""
        self.running = [(*self.running[0], PAD if self.done else places[0])]
        self.done = self.done or places[0] == EOS or len(self.running[0]) == self.limit


class Beams:
    """Beam search for one photo, by Hugging Face's rules.

    Attributes:
        running: Pieces of each beam, the likeliest beam first; before the first step, only the start in each.
        scores: Log-probabilities of the beams.
        parents: For each beam, the beam of the previous step that it continues.
        leader: Pieces of the likeliest candidate of the last step, whether it has ended or not.
        done: Whether the best caption is certain: no running beam can beat it.
    """

    def __init__(self, search: Search):
        self.search = search
        self.running: list[tuple[int, ...]] = [(START,)] * search.num_beams
        self.scores = [0.0] * search.num_beams
        self.parents = [0] * search.num_beams
        self.finished: list[tuple[float, tuple[int, ...]]] = []  # (score by length, pieces), the best first
        self.leader: tuple[int, ...] = (START,)
        self.done = False

    @property
    def best(self) -> tuple[int, ...]:
        return self.finished[0][1] if self.finished else self.running[0]

    def advance(self, values: Sequence[float], places: Sequence[int], vocab_size: int) -> None:
        """Takes one step: the 2 G likeliest candidates come in, of which at most G end.

        Args:
            values: Log-probabilities of the candidates, the largest first.
            places: beam * vocab_size + piece for each candidate.
            vocab_size: Number of pieces, V.
        """
        if self.done:  # only until the batch is compacted: its rows are computed, but nothing reads them
            self.running = [(*ids, PAD) for ids in self.running]
            return
        search, width = self.search, self.search.num_beams
        length = len(self.running[0])  # of the caption with the next piece; the start does not count
        at_limit = length == search.max_new_tokens
        candidates = [
            (value, place // vocab_size, (*self.running[place // vocab_size], place % vocab_size))
            for value, place in zip(values, places, strict=True)
        ]
        self.leader = candidates[0][2]
        ended = [at_limit or ids[-1] == EOS for _, _, ids in candidates]
        # A caption that ends below the G likeliest is dropped: it cannot be chosen, and cannot go on.
        self.finished += [
            (value / length**search.length_penalty, ids)
            for (value, _, ids), end in list(zip(candidates, ended, strict=True))[:width]
            if end
        ]
        self.finished = sorted(self.finished, key=lambda scored: -scored[0])[:width]
        if at_limit:
            self.done = True
            return
        going = [candidate for candidate, end in zip(candidates, ended, strict=True) if not end][:width]
        self.scores, self.parents, self.running = map(list, zip(*going, strict=True))
        if len(self.finished) == width:
            ahead = search.max_new_tokens if search.early_stopping == "never" and search.length_penalty > 0 else length
            hope = self.scores[0] / ahead**search.length_penalty
            self.done = search.early_stopping is True or not hope > self.finished[-1][0]
