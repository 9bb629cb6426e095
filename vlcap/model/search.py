"""The search for captions: greedy, beams or samples, in plain Python. An engine computes the scores (vlcap/engines).

    search = Search(max_new_tokens=30, num_beams=4)
    [written] = find_captions(engine.start(tokens, search), search)
    written.ids, written.logprobs

Each photo has a search of its own, which says which beams go on and which have ended. The rules are Hugging Face's, so
the captions are those that `generate` finds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Union

from .tokenizer import EOS, PAD, START

# Called after each step with the pieces of the first photo's leading caption. Returning True ends the search.
Watch = Callable[[Sequence[int]], bool]
COMPACT_AT = 0.75  # share of photos still searched at which the batch is compacted, which copies the cache
DEFAULTS = [("do_sample", False), ("num_return_sequences", 1), ("use_cache", True)]  # settings that change nothing


class Written(NamedTuple):
    """A caption as it was decoded.

    Attributes:
        ids: Pieces, start and end included.
        logprobs: Log-probability of each piece after the start, as the decoder gave it, before any penalty.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class Candidates(NamedTuple):
    """Pieces that may come next in one photo's search, the best first.

    Attributes:
        values: Log-probability of the caption with the piece, under the search's penalties; greedy searches ignore it.
        places: beam * V + piece.
        logprobs: Log-probability of the piece, as the decoder gave it.
    """

    values: Sequence[float]
    places: Sequence[int]
    logprobs: Sequence[float]


@dataclass(frozen=True)
class Search:
    """Settings of a search, with Hugging Face's names and meanings."""

    max_new_tokens: int
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    repetition_penalty: float = 1.0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0

    @classmethod
    def of(cls, settings: dict[str, Any], longest: int, vocab_size: int) -> "Search | None":
        """A search with Hugging Face's settings; None if they ask for more than this file can do.

        Args:
            settings: Settings by Hugging Face's names; None for a setting's default.
            longest: Most pieces of a caption that the decoder has positions for.
            vocab_size: Number of pieces, V.
        """
        asked = {name: value for name, value in settings.items() if value is not None and (name, value) not in DEFAULTS}
        beams, penalty = asked.get("num_beams", 1), asked.get("repetition_penalty", 1.0)
        longest_asked = asked.get("max_new_tokens", 0)
        able = (
            asked.keys() <= cls.__dataclass_fields__.keys()
            and isinstance(longest_asked, int)
            and 1 <= longest_asked <= longest
            and isinstance(beams, int)
            and 1 <= beams <= vocab_size // 2
            and isinstance(penalty, float)
            and penalty > 0
            and asked.get("early_stopping", False) in (True, False, "never")
            and not (asked.get("do_sample") and (beams > 1 or asked.get("temperature", 1.0) <= 0))
            and not (asked.get("do_sample") and not (asked.get("top_k", 0) >= 0 and 0 < asked.get("top_p", 1.0) <= 1))
        )
        if not asked.get("do_sample"):  # then these change nothing
            asked = {name: value for name, value in asked.items() if name not in ("temperature", "top_k", "top_p")}
        return cls(**asked) if able else None

    def start(self) -> Union["Single", "Beams"]:
        """The search of one photo, before its first step."""
        return Single(self) if self.num_beams == 1 else Beams(self)

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

    def draw(self, scores: Any, random: Any) -> int:
        """A piece drawn by its probability, under temperature, top_k and top_p (nucleus sampling, arXiv 1904.09751).

        Args:
            scores: Adjusted scores of the next piece, a NumPy array (V,).
            random: NumPy's random generator.
        """
        import numpy as np

        scores = scores.astype(np.float64) / self.temperature
        order = np.argsort(-scores, kind="stable")[: self.top_k or None]
        chances = np.exp(scores[order] - scores[order[0]])
        chances /= chances.sum()
        # The fewest pieces that reach top_p together; the likeliest one is always among them.
        kept = max(1, int(np.searchsorted(np.cumsum(chances), self.top_p, side="left")) + 1)
        return int(random.choice(order[:kept], p=chances[:kept] / chances[:kept].sum()))


class Decoding(Protocol):
    """An engine's state while it decodes a batch of B photos with G beams each; one beam in the first step."""

    def __len__(self) -> int:
        """B, the photos that are still decoded."""

    def step(self, pieces: list[list[int]]) -> Any:
        """Writes one piece for each beam, (B, G). Returns the logits of the next pieces, (B, G, V)."""

    def candidates(
        self, logits: Any, written: list[list[tuple[int, ...]]], scores: list[list[float]], search: Search
    ) -> list[Candidates]:
        """The pieces that may come next: one for each photo in a search without beams, otherwise 2 G.

        Args:
            logits: What `step` returned.
            written: Pieces of each beam.
            scores: Log-probability of each beam; ignored by a search without beams.
            search: The settings.
        """

    def fork(self, parents: list[list[int]]) -> None:
        """Beam g of photo b goes on from beam parents[b][g]."""

    def keep(self, photos: list[int]) -> None:
        """Drops all photos but these."""


def find_captions(decoding: Decoding, search: Search, watch: Watch | None = None) -> list[Written]:
    """The captions of a batch of photos.

    Args:
        decoding: An engine's state before the first piece.
        search: The settings.
        watch: Called after each step. If it returns True, the search ends with what has been written.
    """
    return [photo.best for photo in _searched(decoding, search, watch)]


def find_several(decoding: Decoding, search: Search) -> list[list[Written]]:
    """All captions that the search of each photo ended with, the best first: as many as it has beams.

    Args:
        decoding: An engine's state before the first piece.
        search: The settings.
    """
    return [photo.several for photo in _searched(decoding, search)]


def _searched(decoding: Decoding, search: Search, watch: Watch | None = None) -> list[Any]:
    """The finished searches of a batch of photos. Arguments as `find_captions`."""
    photos: list[Any] = [search.start() for _ in range(len(decoding))]
    active = photos
    beams = 1  # all beams are the same until the first piece is written
    while active:
        written = [photo.running[:beams] for photo in active]
        logits = decoding.step([[ids[-1] for ids in each] for each in written])
        found = decoding.candidates(logits, written, [photo.scores[:beams] for photo in active], search)
        for photo, candidates in zip(active, found, strict=True):
            photo.advance(candidates, vocab_size=logits.shape[-1])
        if watch is not None and watch(active[0].leader):
            break
        beams = search.num_beams
        going = [i for i, photo in enumerate(active) if not photo.done]
        if len(going) <= COMPACT_AT * len(active):
            decoding.keep(going)
            active = [active[i] for i in going]
        if beams > 1 and active:
            decoding.fork([photo.parents for photo in active])
    return photos


class Single:
    """Greedy search or sampling for one photo: one piece comes next."""

    scores = (0.0,)

    def __init__(self, search: Search):
        self.limit = 1 + search.max_new_tokens
        self.running: list[tuple[int, ...]] = [(START,)]
        self.logprobs: tuple[float, ...] = ()
        self.done = False

    @property
    def best(self) -> Written:
        return Written(self.running[0][: 1 + len(self.logprobs)], self.logprobs)

    @property
    def several(self) -> list[Written]:
        return [self.best]

    @property
    def leader(self) -> tuple[int, ...]:
        return self.running[0]

    def advance(self, candidates: Candidates, vocab_size: int) -> None:
        """Adds the chosen piece; after the end, padding, until the batch is compacted."""
        piece = PAD if self.done else candidates.places[0]
        self.running = [(*self.running[0], piece)]
        if not self.done:
            self.logprobs = (*self.logprobs, candidates.logprobs[0])
        self.done = self.done or piece == EOS or len(self.running[0]) == self.limit


class Beams:
    """Beam search for one photo, by Hugging Face's rules.

    Attributes:
        running: Pieces of each beam, the likeliest beam first; before the first step, only the start in each.
        scores: Log-probabilities of the beams, under the search's penalties.
        logprobs: Log-probabilities of each beam's pieces, before penalties.
        parents: For each beam, the beam of the previous step that it continues.
        leader: Pieces of the likeliest candidate of the last step, whether it has ended or not.
        done: Whether the best caption is certain: no running beam can beat it.
    """

    def __init__(self, search: Search):
        self.search = search
        self.running: list[tuple[int, ...]] = [(START,)] * search.num_beams
        self.scores = [0.0] * search.num_beams
        self.logprobs: list[tuple[float, ...]] = [()] * search.num_beams
        self.parents = [0] * search.num_beams
        self.finished: list[tuple[float, Written]] = []  # (score by length, caption), the best first
        self.leader: tuple[int, ...] = (START,)
        self.done = False

    @property
    def best(self) -> Written:
        return self.several[0]

    @property
    def several(self) -> list[Written]:
        return [written for _, written in self.finished] or [Written(self.running[0], self.logprobs[0])]

    def advance(self, candidates: Candidates, vocab_size: int) -> None:
        """Takes one step: the 2 G likeliest candidates come in, of which at most G end.

        Args:
            candidates: The candidates.
            vocab_size: Number of pieces, V.
        """
        if self.done:  # only until the batch is compacted: its rows are computed, but nothing reads them
            self.running = [(*ids, PAD) for ids in self.running]
            return
        search, width = self.search, self.search.num_beams
        length = len(self.running[0])  # of the caption with the next piece; the start does not count
        at_limit = length == search.max_new_tokens
        found = []
        for value, place, logprob in zip(*candidates, strict=True):
            beam, piece = divmod(place, vocab_size)
            found.append((value, beam, Written((*self.running[beam], piece), (*self.logprobs[beam], logprob))))
        self.leader = found[0][2].ids
        ended = [at_limit or written.ids[-1] == EOS for _, _, written in found]
        # A caption that ends below the G likeliest is dropped: it cannot be chosen, and cannot go on.
        self.finished += [
            (value / length**search.length_penalty, written)
            for (value, _, written), end in list(zip(found, ended, strict=True))[:width]
            if end
        ]
        self.finished = sorted(self.finished, key=lambda scored: -scored[0])[:width]
        if at_limit:
            self.done = True
            return
        going = [candidate for candidate, end in zip(found, ended, strict=True) if not end][:width]
        self.scores = [value for value, _, _ in going]
        self.parents = [beam for _, beam, _ in going]
        self.running = [written.ids for _, _, written in going]
        self.logprobs = [written.logprobs for _, _, written in going]
        if len(self.finished) == width:
            ahead = search.max_new_tokens if search.early_stopping == "never" and search.length_penalty > 0 else length
            hope = self.scores[0] / ahead**search.length_penalty
            self.done = search.early_stopping is True or not hope > self.finished[-1][0]
