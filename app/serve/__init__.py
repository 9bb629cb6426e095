"""The server for programs: OpenAI's chat completions with a photo, and a plain way to send one.

    vlcap serve --port 8000

FastAPI behind a door of our own. server.py starts and ends it; door.py says who may ask, and counts; routes.py has the
addresses. A request takes a place at desk.py, which reads its body within limits and has its photo decoded.
batching.py captions photos that arrive together. menu.py says what may be asked of the captioner, chat.py reads and
answers OpenAI's requests, plain.py those of /caption. refusals.py is every error that a program sees, counts.py the
metrics.

No address that a request names is ever fetched, and no photo is written to disk. docs/serving.md is for users.
"""

from .server import serve, start

__all__ = ["serve", "start"]
