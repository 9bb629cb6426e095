"""The web demo: a photo in, a caption out, with a choice of how many tokens the decoder reads.

    vlcap demo

A page of Gradio's on this machine only: nothing is sent elsewhere, and photos are deleted when the demo ends. The same
through its API, with `gradio_client`:

    Client("http://127.0.0.1:7860").predict(handle_file("photo.jpg"), 5, api_name="/caption")
    # ("a dog running through the grass", 25, 0.41, 87)   caption, tokens, GFLOPs of the encoder, milliseconds
"""

import html
import time
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from PIL import Image

from encoders.cost import count_gflops
from vlcap.captioner import Captioner
from vlcap.images import ImageError, load_image

MAX_FILE_SIZE = "20mb"
MAX_WAITING = 16  # who comes later is told that the queue is full
PHOTO_AGE = 24 * 3600  # seconds that an uploaded photo is kept at most

INTRODUCTION = """\
# Photo captions from few tokens
A [LookupViT](https://arxiv.org/abs/2407.12753) encoder compresses the photo into a few tokens, and a small text decoder
writes the caption from these alone: few are enough. Choose how few. The captioner here is `{name}`; its captions can
be wrong.
"""

CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important }
#caption textarea { font-size: 1.3rem; line-height: 1.5 }
"""


def refusal(message: str) -> gr.Error:
    """What the page, or a client of its API, is told of a photo that can't be taken."""
    # The browser takes the message for HTML, and a file's name in it comes from outside.
    return gr.Error(html.escape(message, quote=False), print_exception=False)


class Photo(gr.Image):
    """An image input that reads files as every command does: `load_image`, with its limits and its messages."""

    def get_block_name(self) -> str:
        return "image"  # the component that the browser shows

    def preprocess(self, payload: ImageData | None) -> Image.Image | None:
        if payload is None:
            return None
        if payload.path is None:
            raise refusal("The photo has to come as a file.")
        try:
            return load_image(payload.path, name=payload.orig_name or "photo")
        except ImageError as error:
            raise refusal(str(error)) from None

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        # Gradio would fetch the address itself, whatever its size.
        if str(url_or_file_path).lower().startswith(("http:", "https:")):
            raise refusal("The photo has to come as a file, not as an address.")
        return await super().async_move_resource_to_block_cache(url_or_file_path)

    def example_payload(self) -> dict[str, Any]:  # in the page's help on its API; Gradio's own is an address
        return {"path": "photo.jpg", "url": "photo.jpg", "meta": {"_type": "gradio.FileData"}}


class Budget(gr.Radio):
    """A choice of whole numbers, which Gradio's own tells the API's clients to send as text and then refuses."""

    def get_block_name(self) -> str:
        return "radio"

    def api_info(self) -> dict[str, Any]:
        sides = ", ".join(str(value) for _, value in self.choices)
        return {"type": "integer", "description": f"Side of the compressed grid: one of {sides}"}


def build(captioner: Captioner) -> gr.Blocks:
    """The page and its API, not yet served."""
    encoder, size = captioner.model.encoder.model, captioner.pixels.size
    budgets = sorted({*captioner.budgets, captioner.default_budget})
    gflops = {budget: float(f"{count_gflops(encoder, budget, size):.3g}") for budget in budgets}

    def caption(photo: Image.Image | None, budget: int | None) -> tuple[str, int | None, float | None, int | None]:
        if photo is None:
            return "", None, None, None
        budget = budget or captioner.default_budget
        [result] = captioner.caption_pixels(captioner.preprocess([photo]), budget=budget)
        return result.text, budget**2, gflops[budget], round(result.ms)

    # Analytics are off by argument, so that the environment stays the user's.
    with gr.Blocks(title="vlcap", analytics_enabled=False, delete_cache=(3600, PHOTO_AGE)) as page:
        gr.Markdown(INTRODUCTION.format(name=captioner.name))
        with gr.Row(equal_height=True):
            photo = Photo(label="Photo", height=404, buttons=["fullscreen"])
            with gr.Column():
                budget = Budget(
                    choices=[(str(side**2), side) for side in budgets],
                    value=captioner.default_budget,
                    label="Tokens the decoder reads",
                    info="Fewer make the encoder cheaper, more leave it more of the photo.",
                )
                text = gr.Textbox(label="Caption", lines=3, interactive=False, elem_id="caption")
                with gr.Row():
                    tokens, cost, ms = (
                        gr.Number(label=label, placeholder="-", interactive=False, min_width=100)
                        for label in ("Tokens", "Encoder GFLOPs", "Milliseconds")
                    )
        captioned = gr.on(
            triggers=[photo.input, budget.input],
            fn=caption,
            inputs=[photo, budget],
            outputs=[text, tokens, cost, ms],
            api_name="caption",
            show_progress="minimal",
            show_progress_on=text,
            trigger_mode="always_last",  # otherwise a choice made while a caption is under way would be lost
            concurrency_limit=1,
        )
        # What stands beside a photo that can't be read must not be the last one's; at first, Gradio would show 0.
        for event in (page.load, captioned.failure):
            event(fn=None, js="() => ['', null, null, null]", outputs=[text, tokens, cost, ms])
    return page.queue(max_size=MAX_WAITING)


def start(captioner: Captioner, port: int | None = None) -> gr.Blocks:
    """Serves the page in the background; `close()` of what it returns ends that, `local_url` is where it is.

    Args:
        captioner: Who writes the captions.
        port: None for the first free one from 7860.

    Raises:
        OSError: The port is taken.
    """
    page = build(captioner)
    # What is said explicitly here can't be changed by Gradio's environment variables.
    page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        ssr_mode=False,
        mcp_server=False,
        prevent_thread_lock=True,
        quiet=True,
        max_file_size=MAX_FILE_SIZE,
        run_history=False,  # it would keep the photos in the browser
        enable_monitoring=False,
        footer_links=["api", "gradio"],
        theme=gr.themes.Default(),
        css=CSS,
    )
    return page


def serve(captioner: Captioner, port: int | None = None) -> None:
    """Serves the page until Ctrl-C, after printing its address; arguments as for `start`."""
    page = start(captioner, port)
    print(f"The demo is at {page.local_url} - Ctrl-C ends it.", flush=True)
    try:
        while page.is_running:
            time.sleep(0.2)
    except KeyboardInterrupt:
        print()  # after the terminal's ^C
    finally:
        page.close(verbose=False)  # ends open tabs' connections too, and deletes the photos
