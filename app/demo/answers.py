"""What the page asks: the captioners it offers, and the settings that a visitor can choose."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from vlcap.attention import Looks, look, seen
from vlcap.captioner import Caption, Captioner

from .batch import Row, caption_batch
from .parts import refusal


@dataclass(frozen=True)
class Seen:
    """What one session's caption came from, kept for clicks on words: the photo as the encoder saw it, and its maps."""

    photo: Image.Image
    looks: Looks


class Author:
    """A captioner with everything that the page says about it."""

    def __init__(self, captioner: Captioner):
        self.captioner = captioner
        self.budgets = sorted({*captioner.budgets, captioner.default_budget})
        self.gflops = {side: float(f"{captioner.engine.gflops(side):.3g}") for side in self.budgets}
        self.patches = captioner.facts.grid  # per side of the photo
        self.has_maps = captioner.facts.gathers

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
            f"**{plain(captioner.name)}**: {plain(captioner.facts.architecture)}, photos of {size} x {size} pixels, "
            f"{parameters:.3g} M parameters; {plain(trained)}. **Its captions can be wrong.**"
            f"{'' if self.has_maps else ' Its encoder does not gather, so there are no maps of what it looked at.'}"
        )

    def side(self, budget: int | None) -> int:
        """The budget to use; None means the model's default.

        Raises:
            gr.Error: The model does not have this budget.
        """
        budget = budget or self.default_budget
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

    def look(self, photo: Image.Image, caption: Caption) -> Seen:
        looks = look(self.captioner, self.captioner.preprocess([photo]), caption.ids, caption.budget)
        return Seen(seen(photo, self.captioner.pixels), looks)

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
