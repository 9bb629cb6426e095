"""The web demo: a photo in, a caption out, with a choice of how few tokens the decoder reads.

    vlcap demo --model FOLDER --model ANOTHER

A Gradio page, served to this machine only unless --host or --share is given. Nothing is sent elsewhere, and photos are
deleted when the demo ends. server.py serves the page, page.py lays it out, answers.py runs the captioners, batch.py
captions many photos, parts.py has the form fields, pictures.py the HTML and CSS, example_photos.py draws the examples.
"""

from .page import build
from .server import serve, start

__all__ = ["build", "serve", "start"]
