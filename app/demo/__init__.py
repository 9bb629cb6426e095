"""The web demo: a photo in, a caption out, with a choice of how few tokens the decoder reads.

    vlcap demo --model FOLDER --model ANOTHER

A page of Gradio's, on this machine only unless asked otherwise: nothing is sent elsewhere, and photos are deleted when
the demo ends. server.py serves it, page.py lays it out, answers.py asks the rooms behind, parts.py are its form fields,
pictures.py what it shows, example_photos.py draws what a first click captions.
"""

from .page import build
from .server import serve, start

__all__ = ["build", "serve", "start"]
