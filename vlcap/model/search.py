"""Greedy and beam search over a caption's pieces, in plain Python: what goes on and what has ended, given scores.

Whoever computes the scores, PyTorch (decode.py) or ONNX Runtime (onnx_captioner.py), asks one of these per photo
what to compute next:

    photo = search.start()
    while not photo.done:
        ...                                     # scores of what may follow each of photo.running
        photo.advance(values, places, vocab_size)
    photo.best

By Hugging Face's rules, so that it finds what `generate` finds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from .tokenizer import EOS, PAD, START


@dataclass(frozen=True)
class Search:
    """What is searched for, by Hugging Face's names and with its meaning."""

    max_new_tokens: int
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    repetition_penalty: float = 1.0

    def start(self) -> Union["Greedy", "Beams"]:
        """One photo's search, before its first step."""
        return Greedy(self) if self.num_beams == 1 else Beams(self)


class Greedy:
    """One photo's caption, always the likeliest piece next."""

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
        """Adds the piece chosen; after the end, padding until the batch is packed anew."""
        self.running = [(*self.running[0], PAD if self.done else places[0])]
        self.done = self.done or places[0] == EOS or len(self.running[0]) == self.limit


class Beams:
    """One photo's beam search, by Hugging Face's rules.

    Attributes:
        running: Pieces of the beams, the likeliest first; before the first step, the start in each.
        scores: Their log-probabilities.
        parents: Which beam of the step before each continues.
        leader: The likeliest candidate of the last step, ended or not.
        done: No caption that is still running can be chosen any more.
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
        """One step: the 2 G likeliest candidates, of which at most G end.

        Args:
            values: Their log-probabilities, the largest first.
            places: beam * vocab_size + piece of each.
            vocab_size: V.
        """
        if self.done:  # only until the batch is packed anew: its rows are computed, and read by nothing
            self.running = [(*ids, PAD) for ids in self.running]
            return
        search, width = self.search, self.search.num_beams
        length = len(self.running[0])  # of what is written, which the start doesn't count to, with the next piece
        at_limit = length == search.max_new_tokens
        candidates = [
            (value, place // vocab_size, (*self.running[place // vocab_size], place % vocab_size))
            for value, place in zip(values, places, strict=True)
        ]
        self.leader = candidates[0][2]
        ended = [at_limit or ids[-1] == EOS for _, _, ids in candidates]
        # A caption that ends below the G likeliest is dropped: it can't be chosen, and can't go on.
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
