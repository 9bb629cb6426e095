"""Form fields of the page that Gradio's own would do less safely."""

import html
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData, ImageData, ListFiles
from PIL import Image

from vlcap.images import ImageError, load_image


def refusal(message: str) -> gr.Error:
    """What the page, or a client of its API, is told of something that can't be taken."""
    # The browser takes the message for HTML, and a file's name in it comes from outside.
    return gr.Error(html.escape(message, quote=False), title="That did not work", print_exception=False)


class FilesOnly:
    """Refuses addresses: Gradio would fetch them itself, whatever their size, from wherever they lead."""

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        if str(url_or_file_path).lower().startswith(("http:", "https:")):
            raise refusal("The photo has to come as a file, not as an address.")
        return await super().async_move_resource_to_block_cache(url_or_file_path)


class Photo(FilesOnly, gr.Image):
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
