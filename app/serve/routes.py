"""The addresses of the server, and what is asked at each.

| address | what it answers |
| --- | --- |
| POST /v1/chat/completions | a caption, as OpenAI's chat completion; chat.py |
| POST /caption | a caption, as `vlcap caption --json` prints it; caption.py |
| GET /v1/models, /v1/models/{id} | the captioner |
| GET /health | whether it answers; open without a key |
| GET /metrics | Prometheus' text; metrics.py |

FastAPI's pages of documentation are off: they load their programs from elsewhere.
"""

import time
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from . import caption, chat
from .errors import ApiError
from .intake import Intake
from .metrics import Metrics
from .model import ServedModel

READ = ["GET", "HEAD"]


def build(model: ServedModel, intake: Intake, metrics: Metrics) -> FastAPI:
    """The app, without its middleware."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    _add_captions(app, model, intake)
    _add_facts(app, model, metrics)

    @app.exception_handler(ApiError)
    async def refused(request: Request, refusal: ApiError) -> Response:
        metrics.refused(refusal.code)
        return refusal.response()

    @app.exception_handler(HTTPException)
    async def not_there(request: Request, error: HTTPException) -> Response:
        known = {404: ("There is no such address.", "unknown_url"), 405: ("Not with this method.", "wrong_method")}
        message, code = known.get(error.status_code, (str(error.detail), "http_error"))
        metrics.refused(code)
        return ApiError(error.status_code, message, code, headers=dict(error.headers or {})).response()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return ApiError(500, "The request could not be answered.", "failed").response()

    return app


def _add_captions(app: FastAPI, model: ServedModel, intake: Intake) -> None:
    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        def read(body: bytes) -> tuple[chat.Asked, NDArray[np.uint8]]:
            asked, photo = chat.read(body, model)
            return asked, intake.pixels(photo, caption.PHOTO, "messages")

        with intake.place():
            async with intake.body(request) as body:
                with intake.decoding():
                    asked, pixels = await intake.in_reader(read, body)
                del body  # while it waits, a request holds its pixels alone
            captions = await intake.captions(request, pixels, asked.wish)
        if asked.stream:
            events = "".join(chat.events(captions, model.name, asked.with_usage))
            return Response(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        return JSONResponse(chat.answer(captions, model.name))

    @app.post("/caption")
    async def captioned(request: Request) -> Response:
        with intake.place():
            async with intake.body(request) as body:
                with intake.decoding():
                    asked, photo = await caption.read(request, body)
                    wish = model.wish(asked.budget, asked.count)
                    pixels = await intake.in_reader(intake.pixels, photo, asked.name)
                del body, photo
            captions = await intake.captions(request, pixels, wish)
        return JSONResponse(caption.answer(captions, asked.name))


def _add_facts(app: FastAPI, model: ServedModel, metrics: Metrics) -> None:
    created = int(time.time())

    @app.api_route("/v1/models", methods=READ)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model.card(created)]}

    @app.api_route("/v1/models/{name}", methods=READ)
    async def one(name: str) -> dict[str, Any]:
        if name != model.name:
            raise ApiError(404, f"There is no such model: here is {model.name}.", "model_not_found", "model")
        return model.card(created)

    @app.api_route("/health", methods=READ)
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": model.name}

    @app.api_route("/metrics", methods=READ)
    async def measured() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")
