"""What happens on the page's events: from the values of its fields to the values that they get."""

import json
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from vlcap.captioner import Caption

from .answers import Author, Kept
from .batch import Row, write_csv, write_jsonl, write_sidecars
from .layout import budget_value
from .parts import Given, Photo, refusal
from .pictures import NO_CAPTION, block_maps, budgets_table, caption_card, growing, notice, rows_table

EMPTY = (NO_CAPTION, block_maps(None, None), "")  # caption, maps of blocks, table of budgets
SKIP = gr.skip()


class Handlers:
    """The functions behind the events.

    Args:
        authors: The captioners to choose from, by name.
        photo: The field of the photo.
        downloads: The buttons that offer a batch's captions as CSV, as JSON lines, and as text files.
    """

    def __init__(self, authors: Mapping[str, Author], photo: Photo, downloads: Sequence[gr.DownloadButton]):
        self.authors = authors
        self.photo = photo
        self.downloads = downloads
        self.kept = Kept()

    def answer(self, given: Given, budget: int | None, model: str, *advanced: Any) -> Iterator[tuple]:
        """The caption as it grows, then its words and maps, then all budgets, smallest first.

        Outputs: replacement of the photo, problem, caption, maps of blocks, table of budgets.
        """
        if given.photo is None:  # an unreadable file would show as a broken picture
            yield _replacement(given, None), notice(given.problem), *EMPTY
            return
        photo, author = given.photo, self.authors[model]
        side, settings = author.side(budget), author.settings(*advanced)
        found = self.kept.of(photo, model, settings)
        shown = "" if given.shown else _replacement(given, self.photo.replacement(photo))
        if side not in found:
            for caption in author.stream(photo, side, settings):
                yield shown, "", growing(caption, author), EMPTY[1], budgets_table(found, author, side)
            found[side] = caption
        answer = author.explain(photo, found[side])
        card, blocks = caption_card(answer, author), block_maps(answer.looks, answer.photo, answer.box)
        for table in self._compare(given, author, side, found, settings):
            yield shown, "", card, blocks, table

    def answer_anew(self, given: Given, budget: int | None, model: str, *advanced: Any) -> Iterator[tuple]:
        """As `answer`, with another sample in place of the captions that were written before."""
        if given.photo is not None:
            self.kept.of(given.photo, model, self.authors[model].settings(*advanced)).clear()
        yield from self.answer(given, budget, model, *advanced)

    def _compare(
        self, given: Given, author: Author, chosen: int, found: dict[int, Caption], settings: dict[str, Any]
    ) -> Iterator[str]:
        """The table of all budgets, row by row, and at last with the times of the encoder."""
        photo = given.needed()
        yield budgets_table(found, author, chosen)
        for side in author.budgets:
            if side not in found:
                found[side] = author.caption(photo, side, settings)
                yield budgets_table(found, author, chosen)
        yield budgets_table(found, author, chosen, author.times(photo))

    def ask(self, photo: Given, budget: int | None, model: str) -> tuple[str, int, float, int]:
        """The finished caption, for programs. Outputs: text, tokens, GFLOPs, milliseconds."""
        author = self.authors[model]
        caption = author.caption(photo.needed(), budget, {})
        return caption.text, caption.budget**2, author.gflops[caption.budget], round(caption.ms)

    def batch(
        self,
        files: list[tuple[str, Path]],
        budget: int | None,
        model: str,
        *advanced: Any,
    ) -> Iterator[tuple]:
        """Captions of many photos, as they are written. Outputs: report, downloads."""
        if not files:
            raise refusal("Choose photos or a zip archive first.")
        author, rows = self.authors[model], []
        closed = [gr.update(value=None, interactive=False)] * len(self.downloads)
        yield "", *closed  # the last batch's
        for row, total in author.batch(files, budget, author.settings(*advanced)):
            rows.append(row)
            yield rows_table(rows, total), *[SKIP] * len(closed)
        yield rows_table(rows, len(rows)), *self._files(rows)

    def _files(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The values of the buttons that offer a batch's captions."""
        updates = []
        with tempfile.TemporaryDirectory() as folder:
            csv, jsonl, texts = (Path(folder, name) for name in ("captions.csv", "captions.jsonl", "captions.zip"))
            with open(csv, "w", newline="", encoding="utf-8-sig") as file:
                write_csv(rows, file)
            with open(jsonl, "w", encoding="utf-8") as file:
                write_jsonl(rows, file)
            with open(texts, "wb") as archive:
                write_sidecars(rows, archive)
            for button, path in zip(self.downloads, (csv, jsonl, texts), strict=True):
                # Copied to Gradio's own folder, which is cleaned up.
                updates.append(gr.update(value=button.serve_static_file(path)["path"], interactive=True))
        return updates

    def change(self, model: str, budget: int | None) -> tuple:
        """Another model is chosen. Outputs: budget, description."""
        author = self.authors[model]
        return budget_value(author, budget), author.description


def _replacement(given: Given, file: dict[str, Any] | None) -> str:
    """What takes the place of a photo in the browser, if it is still there: the visitor may have chosen another one.

    As JSON, and different each time: the browser acts on changes.
    """
    return json.dumps({"of": given.path, "file": file, "number": secrets.token_hex(4)})
