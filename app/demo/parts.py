"""Form fields of the page, where Gradio's own fields are less safe."""

import html
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData, ImageData, ListFiles
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

from vlcap.data.images import LARGE, ImageError

from ..photos import open_photo

UNSHOWN = ("TIFF", "PPM", "JPEG2000", "HEIF")  # readable here, but not shown by every browser


def refusal(message: str) -> gr.Error:
    """The error shown on the page, or sent to a client of the API, for input that is refused."""
    # The browser renders the message as HTML, and it may hold the name of an uploaded file.
    return gr.Error(html.escape(message, quote=False), print_exception=False)


class FilesOnly:
    """Refuses URLs: Gradio would download them itself, at any size and from anywhere."""

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        if str(url_or_file_path).lower().startswith(("http:", "https:")):
            raise refusal("Upload the photo as a file, not as a URL.")
        return await super().async_move_resource_to_block_cache(url_or_file_path)  # type: ignore[misc]


@dataclass(frozen=True)
class Given:
    """What a visitor uploaded: a photo, the reason why it can't be used, or nothing.

    Attributes:
        photo: RGB image.
        problem: Reason in one line, "" without a problem.
        path: Path of the file here; "" without one.
        shown: Whether the page can show the file itself: every browser can, and it is not very large.
    """

    photo: Image.Image | None = None
    problem: str = ""
    path: str = ""
    shown: bool = True

    def needed(self) -> Image.Image:
        """The photo.

        Raises:
            gr.Error: There is no photo.
        """
        if self.photo is None:
            raise refusal(self.problem or "A photo is needed: choose one first.")
        return self.photo


class Photo(FilesOnly, gr.Image):
    """An image input that reads files with `load_image`, as every command does, with its limits and messages."""

    def get_block_name(self) -> str:
        return "image"  # the component that the browser shows

    def preprocess(self, payload: ImageData | None) -> Given:
        if payload is None:
            return Given()
        if payload.path is None:
            raise refusal("Upload the photo as a file.")
        name, path = payload.orig_name or "photo", payload.path
        try:
            if not Path(path).exists():  # a page that was left open
                gone = f"{name}: deleted in the meantime, because photos are not kept: choose it again"
                return Given(problem=gone, path=path)
            photo = open_photo(Path(path), name=name)
            with Image.open(path) as file:
                return Given(photo, "", path, shown=file.format not in UNSHOWN and file.width * file.height <= LARGE)
        except ImageError as error:
            return Given(problem=str(error), path=path)

    def replacement(self, photo: Image.Image) -> dict[str, Any] | None:
        """A file that shows the photo, as the browser names files, in place of one that the page can't show."""
        file = io.BytesIO()
        photo.save(file, "PNG", compress_level=1)  # without loss: the next caption is read from it
        return self.serve_static_file(save_bytes_to_cache(file.getvalue(), "photo.png", cache_dir=self.GRADIO_CACHE))

    def copy_of(self, path: Path) -> str:
        """Path of a file's copy, byte for byte, for the page. Gradio makes a lossy one of an image in memory."""
        return save_bytes_to_cache(path.read_bytes(), path.name, cache_dir=self.GRADIO_CACHE)

    def example_payload(self) -> dict[str, Any]:  # for the page's API help; Gradio's own example is a URL
        return {"path": "photo.jpg", "url": "photo.jpg", "meta": {"_type": "gradio.FileData"}}


class Photos(FilesOnly, gr.File):
    """A file input: several files, each with its name on the visitor's machine."""

    def get_block_name(self) -> str:
        return "file"

    def preprocess(self, payload: ListFiles | FileData | None) -> list[tuple[str, Path]]:
        files = [payload] if isinstance(payload, FileData) else payload or []
        for file in files:
            if file.path is None:
                raise refusal("Upload the photos as files.")
        return [(Path(file.orig_name or file.path).name, Path(file.path)) for file in files]

    def example_payload(self) -> list[dict[str, Any]]:
        return [{"path": "photos.zip", "url": "photos.zip", "meta": {"_type": "gradio.FileData"}}]


class Choice(gr.Radio):
    """A choice of integers. Its reader checks the value, because the choices change with the model and the caption.

    Gradio's own Radio tells API clients to send the number as text, and then refuses it.
    """

    def get_block_name(self) -> str:
        return "radio"

    def preprocess(self, payload: int | None) -> int | None:
        if payload is None or (isinstance(payload, int) and not isinstance(payload, bool)):
            return payload
        raise refusal(f"{self.label} must be an integer.")

    def api_info(self) -> dict[str, Any]:
        return {"type": "integer", "description": str(self.info or self.label)}


class Budget(gr.HTML):
    """A slider over a model's budgets, which are not evenly spaced, with a drawing of the patches and the tokens.

    Its value is the side of the compressed grid. The template is run as JavaScript, so it only gets numbers.
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
        raise refusal("The budget must be an integer.")

    def postprocess(self, value: dict[str, Any]) -> dict[str, Any]:
        return value

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}
