"""The form fields of the page, from top to bottom."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
from PIL import Image

from vlcap.data.archives import MAX_PHOTOS

from .answers import Author
from .example_photos import draw_examples
from .parts import Budget, Choice, Photo, Photos

SESSION = 3600  # seconds that a session's maps are kept

INTRODUCTION = """\
# Photo captions from few tokens
Drop a photo. A [LookupViT](https://arxiv.org/abs/2407.12753) encoder compresses its patches into a few tokens, and a
decoder writes the caption from these tokens alone. How few are enough?
"""
MAPS = """\
In each block, the encoder gathers from the photo's patches into its few tokens. Bright areas contributed most. A map
shows where information came from, not why.
"""
GALLERY: dict[str, Any] = {
    "show_label": False,
    "height": "auto",
    "buttons": [],
    "interactive": False,
    "object_fit": "contain",
    "elem_classes": "gallery",
}


def lay_out(authors: Mapping[str, Author]) -> SimpleNamespace:
    """Creates all fields inside the current `gr.Blocks`, and returns them by name."""
    fields = SimpleNamespace()
    first = next(iter(authors.values()))
    gr.Markdown(INTRODUCTION)
    with gr.Row(equal_height=False):
        with gr.Column(elem_id="photo_and_caption"):
            _photo_and_caption(fields)
        with gr.Column():
            _settings(fields, authors, first)
    with gr.Tab("All budgets"):
        fields.compare = gr.Button("Compare all budgets", variant="primary")
        fields.table = gr.HTML(label="Budgets")
    with gr.Tab("What it looked at"):
        gr.Markdown(MAPS)
        fields.blocks = gr.Gallery(label="What each block gathered from", **GALLERY)
    with gr.Tab("Many photos"):
        _batch(fields)
    fields.kept_caption, fields.kept_seen = gr.State(time_to_live=SESSION), gr.State(time_to_live=SESSION)
    fields.api_budget = Choice(
        choices=[], value=first.default_budget, label="Side of the grid of tokens", visible=False
    )
    return fields


def _photo_and_caption(fields: SimpleNamespace) -> None:
    # The caption is right below its photo, so that a phone shows both at once.
    with gr.Column(elem_id="stage"):  # a word's map lies over the photo
        fields.photo = Photo(
            label="Photo",
            height=320,
            buttons=["fullscreen"],
            sources=["upload", "webcam", "clipboard"],
            elem_id="photo",
        )
        fields.word_map = gr.HTML(elem_id="word_map", visible=False)
    fields.problem = gr.HTML(elem_id="problem")
    fields.text = gr.Textbox(
        label="Caption", lines=2, interactive=False, elem_id="caption", placeholder="Choose a photo first."
    )
    fields.word = Choice(
        choices=[],
        label="Where did it look?",
        info="Click a word to see which part of the photo it came from.",
        visible=False,
        elem_id="words",
    )


def _settings(fields: SimpleNamespace, authors: Mapping[str, Author], first: Author) -> None:
    with gr.Row(elem_id="examples"):
        fields.examples = [(_example(name, image), image) for name, image in draw_examples().items()]
    fields.budget = Budget(value=budget_value(first))
    with gr.Row(elem_id="numbers"):
        fields.tokens, fields.cost, fields.ms = (
            gr.Number(label=label, placeholder="-", interactive=False, min_width=90)
            for label in ("Tokens", "Encoder GFLOPs", "Milliseconds")
        )
    fields.model = gr.Dropdown(list(authors), label="Model", visible=len(authors) > 1)
    fields.description = gr.Markdown(first.description)
    longest = max(author.longest for author in authors.values())
    with gr.Accordion("Advanced", open=False):
        beams = first.captioner.generation().get("num_beams", 1)
        fields.beams = gr.Slider(1, 8, value=beams, step=1, label="Beams")
        fields.length = gr.Slider(1, longest, value=first.longest, step=1, label="Longest caption, in pieces")
        fields.sampling = gr.Checkbox(label="Sampling: a different caption each time, without beams")
        fields.temperature = gr.Slider(0.1, 2, value=0.8, step=0.1, label="Sampling temperature")
        fields.top_p = gr.Slider(0.05, 1, value=0.95, step=0.05, label="Sampling top p")
        fields.again = gr.Button("Caption again", size="sm")


def _batch(fields: SimpleNamespace) -> None:
    fields.files = Photos(
        label=f"Photos or zip archives; at most {MAX_PHOTOS} photos",
        file_count="multiple",
        file_types=["image", ".zip"],
        elem_id="files",
    )
    with gr.Row():
        fields.caption_all = gr.Button("Caption all", variant="primary")
        fields.download = gr.DownloadButton("Download CSV", interactive=False)
    fields.report = gr.HTML(label="Captions of all photos")
    fields.gallery = gr.Gallery(label="Photos with captions", **GALLERY)


def budget_value(author: Author, side: int | None = None) -> dict[str, Any]:
    """The value of `Budget` for a model: at `side` if the model has that budget, else at its default."""
    chosen = side if side in author.budgets else author.default_budget
    return {"side": chosen, "sides": author.budgets, "patches": author.patches}


def _example(name: str, image: Image.Image) -> gr.Button:
    icon = image.copy()
    icon.thumbnail((144, 108))
    with tempfile.TemporaryDirectory() as folder:
        icon.save(path := Path(folder, "example.png"))
        button = gr.Button(name, icon=path, size="sm")  # Gradio copies it
    button.keep_in_cache.add(button.icon["path"])  # otherwise it is deleted like a visitor's file
    return button
