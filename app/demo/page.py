"""The page: its layout, and which results of answers.py go where."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from vlcap.attention import overlay
from vlcap.captioner import Caption, Captioner

from .answers import Author, Seen, by_name
from .batch import MAX_PHOTOS, write_csv
from .example_photos import draw_examples
from .parts import Budget, Choice, Given, Photo, Photos, refusal
from .pictures import budgets_table, figure, notice, rows_table

MAX_WAITING = 16  # further requests get "Queue is full"
KEPT = 3600  # seconds that a visitor's file is kept
SESSION = 3600  # seconds that a session's maps are kept

INTRODUCTION = """\
# Photo captions from few tokens
Drop a photo. A [LookupViT](https://arxiv.org/abs/2407.12753) encoder compresses its patches into a few tokens, and a
decoder writes the caption from these tokens alone. How few are enough?
"""

# One model on a small machine: all requests for captions share one bounded queue.
LINE = {"concurrency_id": "model", "concurrency_limit": 1}
PRIVATE = {"api_visibility": "private"}
AT_ONCE = {"queue": False, **PRIVATE}  # requests that need no model skip the queue
WHOLE = -1  # chosen in place of a word: the photo itself


def build(captioners: Captioner | Sequence[Captioner]) -> gr.Blocks:
    """Builds the page and its API, without serving them, for one captioner or several to choose from."""
    authors = by_name([captioners] if isinstance(captioners, Captioner) else captioners)
    first = next(iter(authors.values()))
    longest = max(author.longest for author in authors.values())
    drawn = draw_examples()
    # Analytics are turned off by argument, to leave the user's environment alone.
    with gr.Blocks(title="vlcap", analytics_enabled=False, delete_cache=(KEPT // 4, KEPT)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row(equal_height=False):
            with gr.Column(elem_id="photo_and_caption"):
                # The caption is right below its photo, so that a phone shows both at once.
                with gr.Column(elem_id="stage"):  # a word's map lies over the photo
                    photo = Photo(
                        label="Photo",
                        height=320,
                        buttons=["fullscreen"],
                        sources=["upload", "webcam", "clipboard"],
                        elem_id="photo",
                    )
                    word_map = gr.HTML(elem_id="word_map", visible=False)
                problem = gr.HTML(elem_id="problem")
                text = gr.Textbox(
                    label="Caption", lines=2, interactive=False, elem_id="caption", placeholder="Choose a photo first."
                )
                word = Choice(
                    choices=[],
                    label="Where did it look?",
                    info="Click a word to see which part of the photo it came from.",
                    visible=False,
                    elem_id="words",
                )
            with gr.Column():
                with gr.Row(elem_id="examples"):
                    examples = [_example(name, image) for name, image in drawn.items()]
                budget = Budget(value=_budgets(first))
                with gr.Row(elem_id="numbers"):
                    tokens, cost, ms = (
                        gr.Number(label=label, placeholder="-", interactive=False, min_width=90)
                        for label in ("Tokens", "Encoder GFLOPs", "Milliseconds")
                    )
                model = gr.Dropdown(list(authors), label="Model", visible=len(authors) > 1)
                description = gr.Markdown(first.description)
                with gr.Accordion("Advanced", open=False):
                    beams = gr.Slider(1, 8, value=_own(first, "num_beams", 1), step=1, label="Beams")
                    length = gr.Slider(1, longest, value=first.longest, step=1, label="Longest caption, in pieces")
                    sampling = gr.Checkbox(label="Sampling: a different caption each time, without beams")
                    temperature = gr.Slider(0.1, 2, value=0.8, step=0.1, label="Sampling temperature")
                    top_p = gr.Slider(0.05, 1, value=0.95, step=0.05, label="Sampling top p")
                    again = gr.Button("Caption again", size="sm")
        with gr.Tab("All budgets"):
            compare = gr.Button("Compare all budgets", variant="primary")
            table = gr.HTML(label="Budgets")
        with gr.Tab("What it looked at"):
            gr.Markdown(
                "In each block, the encoder gathers from the photo's patches into its few tokens. Bright areas "
                "contributed most. A map shows where information came from, not why."
            )
            blocks = gr.Gallery(
                label="What each block gathered from",
                show_label=False,
                height="auto",
                buttons=[],
                interactive=False,
                object_fit="contain",
                elem_classes="gallery",
            )
        with gr.Tab("Many photos"):
            files = Photos(
                label=f"Photos or zip archives; at most {MAX_PHOTOS} photos",
                file_count="multiple",
                file_types=["image", ".zip"],
                elem_id="files",
            )
            with gr.Row():
                caption_all = gr.Button("Caption all", variant="primary")
                download = gr.DownloadButton("Download CSV", interactive=False)
            report = gr.HTML(label="Captions of all photos")
            gallery = gr.Gallery(
                label="Photos with captions",
                show_label=False,
                height="auto",
                buttons=[],
                interactive=False,
                object_fit="contain",
                elem_classes="gallery",
            )
        kept_caption, kept_seen = gr.State(time_to_live=SESSION), gr.State(time_to_live=SESSION)
        api_budget = Choice(choices=[], value=first.default_budget, label="Side of the grid of tokens", visible=False)

        def grow(given: Given, budget: int | None, model: str, *advanced: Any) -> Iterator[tuple]:
            if given.photo is None:  # an unreadable file would show as a broken picture
                yield None, notice(given.problem), "", None, None, None, None
                return
            author = authors[model]
            shown = gr.skip() if given.shown else given.photo
            for found in author.stream(given.photo, budget, author.settings(*advanced)):
                yield shown, "", *_shown(author, found), found
                shown = gr.skip()

        def ask(photo: Given, budget: int | None, model: str) -> tuple:
            author = authors[model]
            return _shown(author, author.caption(photo.needed(), budget, {}))

        def all_budgets(given: Given, model: str, *advanced: Any) -> Iterator[str]:
            author, found = authors[model], []
            for side in author.budgets:
                found.append(author.caption(given.needed(), side, author.settings(*advanced)))
                yield budgets_table(found, author.gflops, pending=len(author.budgets) - len(found))

        def look(given: Given, model: str, caption: Caption | None) -> Iterator[tuple]:
            author = authors[model]
            if given.photo is None or caption is None or not author.has_maps:
                yield None, [], gr.update(choices=[], value=None, visible=False), HIDDEN
                return
            seen = author.look(given.photo, caption)
            words = [("(the photo)", WHOLE), *((name, place) for place, name in enumerate(seen.looks.words))]
            yield seen, gr.skip(), gr.update(choices=words, value=WHOLE, visible=len(words) > 1), HIDDEN
            small = seen.photo.reduce(2)
            pictures = [(overlay(small, block), f"Block {number}") for number, block in enumerate(seen.looks.blocks, 1)]
            yield seen, pictures, gr.skip(), gr.skip()

        def look_at(seen: Seen | None, word: int | None) -> dict[str, Any]:
            if seen is None or word is None or word == WHOLE:
                return HIDDEN
            if not 0 <= word < len(seen.looks.words):
                raise refusal("The caption has no such word.")
            name = f"Where this word came from: {seen.looks.words[word]}"
            return gr.update(value=figure(overlay(seen.photo, seen.looks.maps[word]), name), visible=True)

        def batch(
            files: list[tuple[str, Path]],
            budget: int | None,
            model: str,
            *advanced: Any,
            progress: gr.Progress = gr.Progress(),  # noqa: B008  (Gradio recognizes it by this default)
        ) -> tuple:
            if not files:
                raise refusal("Choose photos or a zip archive first.")
            author, rows = authors[model], []
            for row, total in author.batch(files, budget, author.settings(*advanced)):
                rows.append(row)
                progress((len(rows), total), desc="Captioning", unit="photos")
            pictures = [(row.thumbnail, row.caption) for row in rows if not row.problem]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "captions.csv")
                with open(path, "w", newline="", encoding="utf-8-sig") as file:
                    write_csv(rows, file)
                # Copied to Gradio's own folder, which is cleaned up.
                kept = download.serve_static_file(path)["path"]
            return rows_table(rows), pictures, gr.update(value=kept, interactive=True)

        def change(model: str, budget: int | None) -> tuple:
            author = authors[model]
            return _budgets(author, budget), author.description, ""

        advanced = [beams, length, sampling, temperature, top_p]
        live = [photo, problem, text, tokens, cost, ms, kept_caption]
        seen_outputs = [kept_seen, blocks, word, word_map]

        def captioned_after(events: gr.events.Dependency | list) -> None:
            """After these events, the caption grows; then its maps follow."""
            arguments = {"fn": grow, "inputs": [photo, budget, model, *advanced], "outputs": live, **LINE, **PRIVATE}
            arguments |= {"show_progress": "minimal", "show_progress_on": text}
            if isinstance(events, list):  # always_last: a choice made while a caption is being written is not lost
                grown = gr.on(triggers=events, trigger_mode="always_last", **arguments)
            else:
                grown = events.then(**arguments)
            grown.success(
                fn=look,
                inputs=[photo, model, kept_caption],
                outputs=seen_outputs,
                show_progress="hidden",
                **LINE,
                **PRIVATE,
            )
            # Next to a photo that can't be captioned, the previous photo's results must not stay.
            grown.failure(fn=None, js=f"() => {BLANK}", outputs=[text, tokens, cost, ms, table])

        captioned_after([photo.input, budget.input, again.click, sampling.input, beams.release, length.release])
        for button, image in zip(examples, drawn.values(), strict=True):
            chosen = button.click(lambda image=image: (image, ""), outputs=[photo, table], **AT_ONCE)
            chosen.then(fn=None, js=_scroll_to("photo_and_caption"))
            captioned_after(chosen)
        captioned_after(model.input(change, inputs=[model, budget], outputs=[budget, description, table], **AT_ONCE))
        photo.input(fn=None, js="() => ''", outputs=table)
        compare.click(
            all_budgets, inputs=[photo, model, *advanced], outputs=table, show_progress="minimal", **LINE, **PRIVATE
        )
        word.input(fn=None, js=_scroll_to("stage"))
        word.input(look_at, inputs=[kept_seen, word], outputs=word_map, show_progress="hidden", **AT_ONCE)
        caption_all.click(
            batch,
            inputs=[files, budget, model, *advanced],
            outputs=[report, gallery, download],
            show_progress_on=report,
            **LINE,
            **PRIVATE,
        )
        # For programs: one final answer instead of a growing caption.
        gr.Button(visible=False).click(
            ask, inputs=[photo, api_budget, model], outputs=[text, tokens, cost, ms], api_name="caption", **LINE
        )
        page.load(fn=None, js=f"() => {BLANK}", outputs=[text, tokens, cost, ms, table])  # Gradio would show 0
    return page.queue(max_size=MAX_WAITING)


BLANK = "['', null, null, null, '']"
HIDDEN = gr.update(value="", visible=False)


def _scroll_to(name: str) -> str:
    """JavaScript that scrolls an element into view, which a phone needs; if it is in view, nothing moves."""
    return f"() => document.querySelector('#{name}').scrollIntoView({{block: 'nearest'}})"


def _shown(author: Author, caption: Caption) -> tuple[str, int, float, int]:
    return caption.text, caption.budget**2, author.gflops[caption.budget], round(caption.ms)


def _budgets(author: Author, side: int | None = None) -> dict[str, Any]:
    """The value of `Budget` for a model: at `side` if the model has that budget, else at its default."""
    chosen = side if side in author.budgets else author.default_budget
    return {"side": chosen, "sides": author.budgets, "patches": author.patches}


def _own(author: Author, name: str, default: Any) -> Any:
    return author.captioner.generation().get(name, default)


def _example(name: str, image: Image.Image) -> gr.Button:
    icon = image.copy()
    icon.thumbnail((144, 108))
    with tempfile.TemporaryDirectory() as folder:
        icon.save(path := Path(folder, "example.png"))
        button = gr.Button(name, icon=path, size="sm")  # Gradio copies it
    button.keep_in_cache.add(button.icon["path"])  # otherwise it is deleted like a visitor's file
    return button
