"""The form fields of the page, from top to bottom."""

import tempfile
from collections.abc import Mapping
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr

from vlcap.data.archives import MAX_PHOTOS
from vlcap.data.images import load_image

from .answers import Author
from .example_photos import Example, shown_examples
from .parts import Budget, Choice, Photo, Photos
from .pictures import NO_CAPTION, NO_MAP, block_maps

INTRODUCTION = """\
# Photo captions from few tokens
Drop a photo. A [LookupViT](https://arxiv.org/abs/2407.12753) encoder compresses its patches into a few tokens, and a
decoder writes the caption from these tokens alone. How few are enough?
"""
MAPS = """\
In each block, the encoder gathers from the photo's patches into its few tokens. Bright areas contributed most. Choose a
block to see its map over the photo. A map shows where information came from, not why.
"""


def lay_out(authors: Mapping[str, Author]) -> SimpleNamespace:
    """Creates all fields inside the current `gr.Blocks`, and returns them by name."""
    fields = SimpleNamespace()
    first = next(iter(authors.values()))
    gr.Markdown(INTRODUCTION)
    # On a phone: the caption right below its photo, all budgets right below the caption, then the settings.
    with gr.Row(equal_height=False, elem_id="main"):
        with gr.Column(elem_id="photo_and_examples"):
            _photo(fields)
        with gr.Column(elem_id="answer"):
            fields.caption = gr.HTML(NO_CAPTION, elem_id="caption", container=True, padding=True)
            fields.table = gr.HTML(elem_id="budgets", container=True)
        with gr.Column(elem_id="settings"):
            fields.budget = Budget(value=budget_value(first))
            fields.model = gr.Dropdown(list(authors), label="Captioner", visible=len(authors) > 1, elem_id="model")
            fields.description = gr.Markdown(first.description, elem_classes="quiet")
            with gr.Accordion("Advanced", open=False, elem_id="advanced"):
                _advanced(fields, first, longest=max(author.longest for author in authors.values()))
    with gr.Tab("What each block looked at"):
        gr.Markdown(MAPS)
        fields.blocks = gr.HTML(block_maps(None, None), elem_id="blocks")
    with gr.Tab("Many photos"):
        _batch(fields)
    _for_programs(fields, first)
    return fields


def _photo(fields: SimpleNamespace) -> None:
    with gr.Column(elem_id="stage"):  # a word's map lies over the photo
        fields.photo = Photo(
            label="Photo",
            height=320,
            buttons=["fullscreen"],
            sources=["upload", "webcam", "clipboard"],
            elem_id="photo",
        )
        gr.HTML(NO_MAP, elem_id="word_map")
        fields.replacement = gr.Textbox(visible="hidden", elem_id="replacement")
    fields.problem = gr.HTML(elem_id="problem")
    with gr.Row(elem_id="examples"):
        gr.HTML("Or try one:", elem_classes="title quiet")
        examples = shown_examples()
        fields.examples = [(_button(example, path), path) for example, path in examples]
        sources = "; ".join(f"{example.name}: {example.source}" for example, _ in examples)
        gr.HTML(escape(sources), elem_classes="sources quiet")


def _advanced(fields: SimpleNamespace, first: Author, longest: int) -> None:
    gr.HTML('<p id="put_back" class="quiet" role="status"></p>')  # page.js says there what it put back
    beams = first.captioner.generation().get("num_beams", 1)
    fields.beams = gr.Slider(1, 8, value=beams, step=1, label="Beams", info="Captions that are weighed at once.")
    fields.length = gr.Slider(
        1, longest, value=first.longest, step=1, label="Longest caption", info="In parts of words; most words are one."
    )
    fields.sampling = gr.Checkbox(label="Sampling: another caption each time, without beams")
    fields.temperature = gr.Slider(
        0.1, 2, value=0.8, step=0.1, label="Temperature", info="Higher is more surprising.", visible=False
    )
    fields.top_p = gr.Slider(
        0.05, 1, value=0.95, step=0.05, label="Top p", info="Lower leaves out more of what is unlikely.", visible=False
    )
    fields.again = gr.Button("Another caption", size="sm", visible=False)


def _batch(fields: SimpleNamespace) -> None:
    fields.files = Photos(
        label=f"Photos or zip archives; at most {MAX_PHOTOS} photos",
        file_count="multiple",
        file_types=["image", ".zip"],
        elem_id="files",
    )
    fields.caption_all = gr.Button("Caption all", variant="primary")
    fields.report = gr.HTML(label="Captions of all photos", elem_id="report")
    with gr.Row():
        fields.downloads = [
            gr.DownloadButton(f"Download {kind}", interactive=False, size="sm")
            for kind in ("CSV", "JSON lines", "text files")
        ]


def _for_programs(fields: SimpleNamespace, first: Author) -> None:
    """Fields of the API alone, and the button that page.js presses to put a tab's photo back."""
    fields.api_budget = Choice(
        choices=[], value=first.default_budget, label="Side of the grid of tokens", visible=False
    )
    fields.api_answer = [
        gr.Textbox(label="Caption", visible=False),
        *(gr.Number(label=label, visible=False) for label in ("Tokens", "Encoder GFLOPs", "Milliseconds")),
    ]
    fields.restore = gr.Button("Restore", visible="hidden", elem_id="restore")


def budget_value(author: Author, side: int | None = None) -> dict[str, Any]:
    """The value of `Budget` for a model: at `side` if the model has that budget, else at its default."""
    chosen = side if side in author.budgets else author.default_budget
    return {"side": chosen, "sides": author.budgets, "patches": author.patches}


def _button(example: Example, path: Path) -> gr.Button:
    icon = load_image(path)
    icon.thumbnail((144, 108))
    with tempfile.TemporaryDirectory() as folder:
        icon.save(small := Path(folder, "example.png"))
        button = gr.Button(example.name, icon=small, size="sm")  # Gradio copies it
    button.keep_in_cache.add(button.icon["path"])  # otherwise it is deleted like a visitor's file
    return button
