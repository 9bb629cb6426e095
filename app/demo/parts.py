"""Form fields of the page that Gradio's own would do less safely."""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData, ImageData, ListFiles
from PIL import Image

from vlcap.data.images import ImageError, load_image

UNSHOWN = ("TIFF", "PPM", "JPEG2000", "HEIF")  # formats that are read here, but that not every browser shows


def refusal(message: str) -> gr.Error:
    """What the page, or a client of its API, is told of something that can't be taken."""
    # The browser takes the message for HTML, and a file's name in it comes from outside.
    return gr.Error(html.escape(message, quote=False), print_exception=False)


class FilesOnly:
    """Refuses addresses: Gradio would fetch them itself, whatever their size, from wherever they lead."""

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        if str(url_or_file_path).lower().startswith(("http:", "https:")):
            raise refusal("The photo has to come as a file, not as an address.")
        return await super().async_move_resource_to_block_cache(url_or_file_path)  # type: ignore[misc]


@dataclass(frozen=True)
class Given:
    """What a visitor gave: a photo, or why it can't be taken, or neither.

    Attributes:
        photo: RGB.
        problem: One line.
        shown: Whether a browser shows the file itself.
    """

    photo: Image.Image | None = None
    problem: str = ""
    shown: bool = True

    def needed(self) -> Image.Image:
        """The photo.

        Raises:
            gr.Error: There is none.
        """
        if self.photo is None:
            raise refusal(self.problem or "A photo is needed: choose one first.")
        return self.photo


class Photo(FilesOnly, gr.Image):
    """An image input that reads files as every command does: `load_image`, with its limits and its messages."""

    def get_block_name(self) -> str:
        return "image"  # the component that the browser shows

    def preprocess(self, payload: ImageData | None) -> Given:
        if payload is None:
            return Given()
        if payload.path is None:
            raise refusal("The photo has to come as a file.")
        try:
            name = payload.orig_name or "photo"
            if not Path(payload.path).exists():  # a page that was left open
                return Given(problem=f"{name}: deleted in the meantime, photos are not kept: choose it again")
            photo = load_image(payload.path, name=name)
            with Image.open(payload.path) as file:
                return Given(photo, shown=file.format not in UNSHOWN)
        except ImageError as error:
            return Given(problem=str(error))

    def example_payload(self) -> dict[str, Any]:  # in the page's help on its API; Gradio's own is an address
        return {"path": "photo.jpg", "url": "photo.jpg", "meta": {"_type": "gradio.FileData"}}


class Photos(FilesOnly, gr.File):
    """Several files, each with the name that it had on the visitor's machine."""

    def get_block_name(self) -> str:
        return "file"

    def preprocess(self, payload: ListFiles | FileData | None) -> list[tuple[str, Path]]:
        files = [payload] if isinstance(payload, FileData) else payload or []
        for file in files:
            if file.path is None:
                raise refusal("The photos have to come as files.")
        return [(Path(file.orig_name or file.path).name, Path(file.path)) for file in files]

    def example_payload(self) -> list[dict[str, Any]]:
        return [{"path": "photos.zip", "url": "photos.zip", "meta": {"_type": "gradio.FileData"}}]


class Choice(gr.Radio):
    """A choice of whole numbers, judged by who reads it: what can be chosen changes with the model and the caption.

    Gradio's own tells the API's clients to send the number as text, and then refuses it.
    """

    def get_block_name(self) -> str:
        return "radio"

    def preprocess(self, payload: int | None) -> int | None:
        if payload is None or (isinstance(payload, int) and not isinstance(payload, bool)):
            return payload
        raise refusal(f"{self.label} has to be a whole number.")

    def api_info(self) -> dict[str, Any]:
        return {"type": "integer", "description": str(self.info or self.label)}


class Budget(gr.HTML):
    """A slider over a model's own budgets, which are no even row, and what they mean: the patches and the tokens.

    Its value is the side of the compressed grid. A template sees nothing but numbers: it is run as a program.
    """

    TEMPLATE = """
<label for="budget" class="name">Tokens the decoder reads</label>
<div class="squeeze" aria-hidden="true">
  <span class="grid" style="--side: ${value.patches}"></span>
  <span><b>${value.patches ** 2}</b> patches</span>
  <span class="arrow">&#10140;</span>
  <span class="grid tokens" style="--side: ${value.side}"></span>
  <span><b>${value.side ** 2}</b> tokens</span>
</div>
<input id="budget" type="range" min="0" max="${value.sides.length - 1}" step="1"
  value="${value.sides.indexOf(value.side)}"
  aria-valuetext="${value.side ** 2} tokens of ${value.patches ** 2} patches">
<div class="steps" aria-hidden="true">${value.sides.map(side => `<span>${side ** 2}</span>`).join("")}</div>
"""
    SCRIPT = """
element.addEventListener('input', event => {
  props.value = {...props.value, side: props.value.sides[event.target.value]};
  trigger('input');
});
"""

    def __init__(self, **settings: Any):
        super().__init__(
            html_template=self.TEMPLATE,
            js_on_load=self.SCRIPT,
            container=True,
            elem_classes="budget",
            apply_default_css=False,
            **settings,
        )

    def get_block_name(self) -> str:
        return "html"

    def preprocess(self, payload: dict[str, Any] | None) -> int | None:
        side = payload.get("side") if isinstance(payload, dict) else payload
        if side is None or type(side) is int:
            return side
        raise refusal("The budget has to be a whole number.")

    def postprocess(self, value: dict[str, Any]) -> dict[str, Any]:
        return value

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}
