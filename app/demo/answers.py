"""What the page asks: the captioners it offers, what they say of a photo, and the settings to choose from."""

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
from PIL import Image

from vlcap.attention import Looks, look, seen, seen_box
from vlcap.bench.timing import paired_times
from vlcap.captioner import Caption, Captioner

from .batch import Row, caption_batch
from .certainty import words_with_probability
from .judged import judged
from .parts import refusal

ROUNDS = 3  # of timing the encoder at all budgets, for each photo
TIMES = 30  # newest times that are kept per budget
KEPT = 256  # photos, models and settings whose captions are kept


@dataclass(frozen=True)
class Answer:
    """A finished caption, with all that the page says of it.

    Attributes:
        caption: The caption.
        words: Its words, each with its probability.
        box: What the encoder sees of the photo, as `seen_box` gives it.
        photo: That part of the photo; None without maps.
        looks: The maps of its words and of the encoder's blocks; None without maps.
    """

    caption: Caption
    words: list[tuple[str, float]]
    box: tuple[float, float, float, float]
    photo: Image.Image | None = None
    looks: Looks | None = None

    @property
    def score(self) -> float:
        """Mean log-probability of a piece."""
        return self.caption.score


class Kept:
    """Captions that were written, so that a budget or a tab that comes back costs nothing. No photo is kept."""

    def __init__(self, most: int = KEPT):
        self.most = most
        self._found: OrderedDict[Any, dict[int, Caption]] = OrderedDict()

    def of(self, photo: Image.Image, model: str, settings: dict[str, Any]) -> dict[int, Caption]:
        """The captions of a photo by budget, to read and to add to. The oldest give way to others."""
        content = blake2b(photo.tobytes(), digest_size=16, usedforsecurity=False).digest()
        key = (photo.size, content, model, tuple(sorted(settings.items())))
        found = self._found.setdefault(key, {})
        self._found.move_to_end(key)
        while len(self._found) > self.most:
            self._found.popitem(last=False)
        return found


class Author:
    """A captioner with everything that the page says about it."""

    def __init__(self, captioner: Captioner):
        self.captioner = captioner
        self.budgets = sorted({*captioner.budgets, captioner.default_budget})
        self.gflops = {side: float(f"{captioner.engine.gflops(side):.3g}") for side in self.budgets}
        self.patches = captioner.facts.grid  # per side of the photo
        self.has_maps = captioner.facts.gathers
        self._seconds: dict[int, deque[float]] = {side: deque(maxlen=TIMES) for side in self.budgets}

    @property
    def default_budget(self) -> int:
        return self.captioner.default_budget

    @cached_property
    def longest(self) -> int:
        """Maximum number of pieces that its decoder can write."""
        return self.captioner.facts.longest

    @cached_property
    def description(self) -> str:
        """Description in Markdown: what it is and what it was trained on."""
        captioner = self.captioner
        size = captioner.pixels.size
        parameters = captioner.facts.parameters / 1e6
        trained = (
            f"trained on {captioner.trained_on}"
            if captioner.trained_on
            else ("its folder does not say what it was trained on")
        )
        return (
            f"The captioner {'that comes with vlcap' if self.captioner.is_bundled else plain(captioner.name)}: "
            f"{parameters:.3g} million parameters, reads photos at {size} x {size} pixels, {plain(trained)}."
            f"{'' if self.has_maps else ' Its encoder does not gather, so there are no maps of what it looked at.'}"
        )

    @cached_property
    def judged(self) -> str:
        """How often it is right; "" if nobody has counted."""
        return judged(self.captioner)

    def side(self, budget: int | None) -> int:
        """The budget to use; None means the model's default.

        Raises:
            gr.Error: The model does not have this budget.
        """
        budget = self.default_budget if budget is None else budget
        if budget not in self.budgets:
            raise refusal(f"The budget must be one of {self.budgets} for {self.captioner.name}, not {budget}.")
        return budget

    def settings(self, beams: int, length: int, sampling: bool, temperature: float, top_p: float) -> dict[str, Any]:
        """The page's advanced settings under Hugging Face's names. Gradio checks a slider's range, but not its step."""
        settings: dict[str, Any] = {
            "max_new_tokens": min(int(length), self.longest),
            "num_beams": int(beams),
            "do_sample": False,
        }
        if sampling:
            chosen = {"temperature": float(temperature), "top_p": float(top_p)}  # a whole number arrives as an int
            settings |= {"num_beams": 1, "do_sample": True, "top_k": 0, **chosen}
        return settings

    def stream(self, photo: Image.Image, budget: int | None, settings: dict[str, Any]) -> Iterator[Caption]:
        yield from self.captioner.stream(self.captioner.preprocess([photo]), budget=self.side(budget), **settings)

    def caption(self, photo: Image.Image, budget: int | None, settings: dict[str, Any]) -> Caption:
        [caption] = self.captioner.caption_pixels(
            self.captioner.preprocess([photo]), budget=self.side(budget), **settings
        )
        return caption

    def explain(self, photo: Image.Image, caption: Caption) -> Answer:
        """How sure it was of a caption's words, and what they came from."""
        captioner, pixels = self.captioner, self.captioner.preprocess([photo])
        words = words_with_probability(captioner, caption)
        box = seen_box(photo.size, captioner.pixels)
        if not self.has_maps:
            return Answer(caption, words, box)
        looks = look(captioner, pixels, caption.ids, caption.budget)
        return Answer(caption, words, box, seen(photo, captioner.pixels), looks)

    def warm_up(self) -> None:
        """Captions an empty photo, so that the first visitor's times are those of all others."""
        pixels = np.zeros((1, 3, self.captioner.pixels.size, self.captioner.pixels.size), dtype=np.uint8)
        for side in self.budgets:
            tokens = self.captioner.encode(pixels, side)
        self.captioner.decode_ids(tokens)

    def times(self, photo: Image.Image) -> dict[int, float]:
        """Median milliseconds of one pass of the encoder by budget; nothing if the budgets differ by noise alone.

        The budgets are timed in turn, on this photo, and added to the newest times of other photos. They differ by more
        than noise if no two neighbours' middle halves overlap.
        """
        pixels = self.captioner.preprocess([photo])
        passes = {side: (lambda side=side: self.captioner.encode(pixels, side)) for side in self.budgets}
        device = self.captioner.model.device if self.captioner.engine.kind == "pytorch" else None
        for side, seconds in paired_times(passes, ROUNDS, device).items():
            self._seconds[side].extend(seconds)
        middles = [quantiles(self._seconds[side], n=4) for side in self.budgets]
        for (lower, _, upper), (next_lower, _, next_upper) in pairwise(middles):
            if not (upper < next_lower or next_upper < lower):
                return {}
        return {side: 1000 * median(self._seconds[side]) for side in self.budgets}

    def batch(
        self,
        files: Sequence[tuple[str, Path]],
        budget: int | None,
        settings: dict[str, Any],
    ) -> Iterator[tuple[Row, int]]:
        yield from caption_batch(self.captioner, files, budget=self.side(budget), **settings)


def plain(text: str) -> str:
    """Text escaped for Markdown: model names and descriptions come from folders and files, which can hold anything."""
    return "".join(f"&#{ord(letter)};" if letter in "\\`*_{}[]()#!|<>&~$:" else letter for letter in text)


def by_name(captioners: Sequence[Captioner]) -> dict[str, Author]:
    """Authors by name. A name that occurs twice gets a number."""
    authors = {}
    for captioner in captioners:
        name, number = captioner.name, 1
        while name in authors:
            number += 1
            name = f"{captioner.name} ({number})"
        authors[name] = Author(captioner)
    return authors
