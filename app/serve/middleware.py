"""The middleware in front of the app: who may ask, the key, the end of the server, and what is counted.

program -> Middleware -> FastAPI's app
"""

import os
import secrets
import time
import traceback
from collections.abc import Callable

from vlcap.data.names import printable
from vlcap.errors import VlcapError

from ..asgi import App, Message, Receive, Send, headers_of
from ..origin import Names, problem_with
from ..printing import say
from .errors import GONE, ApiError
from .metrics import Metrics

KEY = "VLCAP_API_KEY"  # environment variable with the key that programs have to send
OPEN = ("/health",)  # addresses that need no key


class ApiKeyError(VlcapError):
    """The environment variable holds no key that can be used. The message says what to do."""


def key_asked_for() -> str | None:
    """The key in $VLCAP_API_KEY; None if programs need none.

    Raises:
        ApiKeyError: It is empty, or no program could send it.
    """
    key = os.environ.get(KEY)
    if key is not None and (not key or not key.isascii() or not key.isprintable() or key != key.strip()):
        raise ApiKeyError(f"${KEY} must be printable ASCII, without spaces around it: set it to a key, or unset it")
    return key


class Middleware:
    """An ASGI app around FastAPI's.

    Args:
        app: FastAPI's app.
        names: Names that the server is asked under.
        metrics: The metrics.
        key: The key that programs have to send; None if they need none.
        is_closing: Whether the server ends, and answers only what is under way.
    """

    def __init__(self, app: App, names: Names, metrics: Metrics, key: str | None, is_closing: Callable[[], bool]):
        self.app, self.names, self.metrics, self.is_closing = app, names, metrics, is_closing
        self.key = None if key is None else key.encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._answer(scope, receive, send)

    def check(self, scope: Message) -> None:
        """Looks at the head of a request.

        Raises:
            ApiError: It is not answered.
        """
        headers = headers_of(scope)
        if not self.names.has(headers.get("host", "")):
            asked = "Not served under this name: use the address that vlcap serve printed, or start it with --name."
            raise ApiError(403, asked, "unknown_host")
        if foreign := problem_with(scope["method"], headers):
            raise ApiError(403, foreign, "other_site")
        if self.is_closing():
            raise ApiError(503, "The server ends.", "ending", headers={"Retry-After": "5", "Connection": "close"})
        if self.key is not None and scope["path"] not in OPEN:
            kind, _, key = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not secrets.compare_digest(key.strip().encode("latin-1"), self.key):
                needed = {"WWW-Authenticate": "Bearer"}
                raise ApiError(401, "The API key is missing or wrong.", "invalid_api_key", headers=needed)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        """Passes a request on and records its metrics. An error gets one log line, without the request's content."""
        started, status = time.perf_counter(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                self.check(scope)
            except ApiError as refusal:
                self.metrics.refused(refusal.code)
                await refusal.response()(scope, receive, counted)
            else:
                await self.app(scope, receive, counted)
        except Exception as error:  # FastAPI has answered, and passes the error on
            say(f"a request to {printable(scope['path'])} failed ({type(error).__name__})")
            if os.environ.get("VLCAP_DEBUG"):
                traceback.print_exception(error)
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.answered(route, status or GONE, time.perf_counter() - started)
