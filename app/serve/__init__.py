"""The server for programs: OpenAI's chat completions with a photo, and a plain way to send one.

    vlcap serve --port 8000

FastAPI behind a middleware of our own. server.py starts and ends it. middleware.py says who may ask, and counts.
routes.py has the addresses. intake.py takes a request in: it reads the body within limits and has the photo decoded.
batching.py captions photos that arrive together. model.py says what may be asked of the captioner, chat.py reads and
answers OpenAI's requests, caption.py those of /caption. errors.py is every error that a program sees, metrics.py the
metrics.

No address that a request names is ever fetched, and no photo is written to disk. docs/serving.md is for users.
"""

from .server import serve, start

__all__ = ["serve", "start"]
