"""What happens on the page's events: from the values of its fields to the values that they get."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from vlcap.attention import overlay
from vlcap.captioner import Caption

from .answers import Author, Seen
from .batch import write_csv
from .layout import budget_value
from .parts import Given, Photo, refusal
from .pictures import budgets_table, figure, notice, rows_table

HIDDEN = gr.update(value="", visible=False)
WHOLE = -1  # chosen in place of a word: the photo itself


class Handlers:
    """The functions behind the events.

    Args:
        authors: The captioners to choose from, by name.
        photo: The field of the photo.
        download: The button that offers a batch's captions.
    """

    def __init__(self, authors: Mapping[str, Author], photo: Photo, download: gr.DownloadButton):
        self.authors = authors
        self.photo = photo
        self.download = download

    def grow(self, given: Given, budget: int | None, model: str, *advanced: Any) -> Iterator[tuple]:
        """The caption as it is decoded. Outputs: photo, problem, text, tokens, cost, ms, the caption itself."""
        if given.photo is None:  # an unreadable file would show as a broken picture
            yield None, notice(given.problem), "", None, None, None, None
            return
        author = self.authors[model]
        # The same each time: Gradio sends the browser only what differs, and a skip would take the photo apart there.
        shown = gr.skip() if given.shown else self.photo.replacement(given.photo)
        for found in author.stream(given.photo, budget, author.settings(*advanced)):
            yield shown, "", *_cells(author, found), found

    def ask(self, photo: Given, budget: int | None, model: str) -> tuple:
        """The finished caption, for programs. Outputs: text, tokens, cost, ms."""
        author = self.authors[model]
        return _cells(author, author.caption(photo.needed(), budget, {}))

    def all_budgets(self, given: Given, model: str, *advanced: Any) -> Iterator[str]:
        """The table of all budgets, row by row."""
        author, found = self.authors[model], []
        for side in author.budgets:
            found.append(author.caption(given.needed(), side, author.settings(*advanced)))
            yield budgets_table(found, author.gflops, pending=len(author.budgets) - len(found))

    def look(self, given: Given, model: str, caption: Caption | None) -> Iterator[tuple]:
        """The maps of a caption. Outputs: what is kept for clicks on words, maps of blocks, the words, a word's map."""
        author = self.authors[model]
        if given.photo is None or caption is None or not author.has_maps:
            yield None, [], gr.update(choices=[], value=None, visible=False), HIDDEN
            return
        seen = author.look(given.photo, caption)
        words = [("(the photo)", WHOLE), *((name, place) for place, name in enumerate(seen.looks.words))]
        yield seen, gr.skip(), gr.update(choices=words, value=WHOLE, visible=len(words) > 1), HIDDEN
        small = seen.photo.reduce(2)
        pictures = [(overlay(small, block), f"Block {number}") for number, block in enumerate(seen.looks.blocks, 1)]
        yield seen, pictures, gr.skip(), gr.skip()

    def look_at(self, seen: Seen | None, word: int | None) -> dict[str, Any]:
        """The map of one word."""
        if seen is None or word is None or word == WHOLE:
            return HIDDEN
        if not 0 <= word < len(seen.looks.words):
            raise refusal("The caption has no such word.")
        name = f"Where this word came from: {seen.looks.words[word]}"
        return gr.update(value=figure(overlay(seen.photo, seen.looks.maps[word]), name), visible=True)

    def batch(
        self,
        files: list[tuple[str, Path]],
        budget: int | None,
        model: str,
        *advanced: Any,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  (Gradio recognizes it by this default)
    ) -> tuple:
        """Captions of many photos. Outputs: report, gallery, download."""
        if not files:
            raise refusal("Choose photos or a zip archive first.")
        author, rows = self.authors[model], []
        for row, total in author.batch(files, budget, author.settings(*advanced)):
            rows.append(row)
            progress((len(rows), total), desc="Captioning", unit="photos")
        pictures = [(row.thumbnail, row.caption) for row in rows if not row.problem]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "captions.csv")
            with open(path, "w", newline="", encoding="utf-8-sig") as file:
                write_csv(rows, file)
            # Copied to Gradio's own folder, which is cleaned up.
            kept = self.download.serve_static_file(path)["path"]
        return rows_table(rows), pictures, gr.update(value=kept, interactive=True)

    def change(self, model: str, budget: int | None) -> tuple:
        """Another model is chosen. Outputs: budget, description, table."""
        author = self.authors[model]
        return budget_value(author, budget), author.description, ""


def _cells(author: Author, caption: Caption) -> tuple[str, int, float, int]:
    """Text, tokens, GFLOPs and milliseconds of a caption."""
    return caption.text, caption.budget**2, author.gflops[caption.budget], round(caption.ms)
