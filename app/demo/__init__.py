"""The web demo: a photo in, a caption out, with a choice of how few tokens the decoder reads.

    vlcap demo --model FOLDER --model ANOTHER

A Gradio page, served to this machine only unless --host or --share is given. Nothing is sent elsewhere, and photos are
deleted when the demo ends. server.py serves the page, behind guard.py; uploads.py has the files of
visitors. page.py builds the page: layout.py has its fields, handlers.py what happens on an event. answers.py runs the
captioners, certainty.py says how sure they were, batch.py captions many photos. parts.py has form fields of our own,
pictures.py the HTML, page.css its look, page.js what it does in the browser; example_photos.py has the examples,
judged.py how often the bundled captioner is right. What it shares with `vlcap serve` lies above it: the check of the
address, who may ask, how photos are opened, how a server ends.
"""

from .page import build
from .server import serve, start

__all__ = ["build", "serve", "start"]
