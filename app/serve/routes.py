"""The addresses of the server, and what is asked at each.

| address | what it answers |
| --- | --- |
| POST /v1/chat/completions | a caption, as OpenAI's chat completion; chat.py |
| POST /caption | a caption, as `vlcap caption --json` prints it; plain.py |
| GET /v1/models, /v1/models/{id} | the captioner |
| GET /health | whether it answers; open without a key |
| GET /metrics | Prometheus' text; counts.py |

FastAPI's pages of documentation are off: they load their programs from elsewhere.
"""

import time
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from . import chat, plain
from .counts import Counts
from .desk import Desk
from .menu import Menu
from .refusals import Refusal

READ = ["GET", "HEAD"]


def build(menu: Menu, desk: Desk, counts: Counts) -> FastAPI:
    """The app, without its door."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    _add_captions(app, menu, desk)
    _add_facts(app, menu, counts)

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        counts.refused(refusal.code)
        return refusal.response()

    @app.exception_handler(HTTPException)
    async def not_there(request: Request, error: HTTPException) -> Response:
        known = {404: ("There is no such address.", "unknown_url"), 405: ("Not with this method.", "wrong_method")}
        message, code = known.get(error.status_code, (str(error.detail), "http_error"))
        counts.refused(code)
        return Refusal(error.status_code, message, code, headers=dict(error.headers or {})).response()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return Refusal(500, "The request could not be answered.", "failed").response()

    return app


def _add_captions(app: FastAPI, menu: Menu, desk: Desk) -> None:
    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        def read(body: bytes) -> tuple[chat.Asked, NDArray[np.uint8]]:
            asked, photo = chat.read(body, menu)
            return asked, desk.pixels(photo, plain.PHOTO, "messages")

        with desk.place():
            async with desk.body(request) as body:
                with desk.decoding():
                    asked, pixels = await desk.in_reader(read, body)
                del body  # while it waits, a request holds its pixels alone
            captions = await desk.captions(request, pixels, asked.wish)
        if asked.stream:
            events = "".join(chat.events(captions, menu.name, asked.with_usage))
            return Response(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        return JSONResponse(chat.answer(captions, menu.name))

    @app.post("/caption")
    async def caption(request: Request) -> Response:
        with desk.place():
            async with desk.body(request) as body:
                with desk.decoding():
                    asked, photo = await plain.read(request, body)
                    wish = menu.wish(asked.budget, asked.count)
                    pixels = await desk.in_reader(desk.pixels, photo, asked.name)
                del body, photo
            captions = await desk.captions(request, pixels, wish)
        return JSONResponse(plain.answer(captions, asked.name))


def _add_facts(app: FastAPI, menu: Menu, counts: Counts) -> None:
    created = int(time.time())

    @app.api_route("/v1/models", methods=READ)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [menu.card(created)]}

    @app.api_route("/v1/models/{name}", methods=READ)
    async def model(name: str) -> dict[str, Any]:
        if name != menu.name:
            raise Refusal(404, f"There is no such model: here is {menu.name}.", "model_not_found", "model")
        return menu.card(created)

    @app.api_route("/health", methods=READ)
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": menu.name}

    @app.api_route("/metrics", methods=READ)
    async def metrics() -> Response:
        return Response(counts.text(), media_type="text/plain; version=0.0.4")
