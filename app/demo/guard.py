"""The door in front of Gradio: who may ask, which of its addresses exist, and how much may be sent.

    browser -> Guard -> Gradio's app

Only the routes in `OPEN` are answered, so that a new version of Gradio opens none that nobody has looked at. Only
requests to this machine's own names are answered, because another name that leads here is a trick (DNS rebinding), and
none that another site's page makes.
"""

import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from vlcap.data.names import printable

from ..printing import say
from .uploads import FullError, Uploads

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MAX_BODY = 1024**2  # bytes of a request that is no upload: values of fields, with photos as paths
UPLOAD = "/gradio_api/upload"
READ, POST = ("GET", "HEAD"), ("POST",)
# Every path that the page, gradio_client and the curl lines of docs/demo.md need.
OPEN: tuple[tuple[tuple[str, ...], str], ...] = (
    (READ, r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/pwa_icon(/\d+)?"),
    (READ, r"/(assets|static|svelte)/.+"),
    (READ, r"/gradio_api/(info|app_id|openapi\.json|startup-events|theme\.css|queue/data|upload_progress)/?"),
    (READ, r"/gradio_api/heartbeat/[\w-]+"),
    (READ, r"/gradio_api/file=.+"),
    (READ, r"/gradio_api/call/(v2/)?caption/[\w-]+"),
    (POST, r"/gradio_api/(queue/join|cancel|reset/?|upload)"),
    (POST, r"/gradio_api/call/(v2/)?caption/?"),
    (POST, r"/gradio_api/run/predict/?"),  # only of events that need no model: the queue has api_open=False
)
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
EVERYWHERE = {"0.0.0.0", "::"}


class _TooLargeError(Exception):
    """A request has more than `MAX_BODY` bytes."""


class Guard:
    """An ASGI app around Gradio's.

    Args:
        app: Gradio's app.
        host: Address that the demo listens on.
        uploads: The folder of uploads.
        shared: Gives the host of the public link, None without one.
    """

    def __init__(self, app: App, host: str, uploads: Uploads, shared: Callable[[], str | None] = lambda: None):
        self.app, self.uploads, self.shared = app, uploads, shared
        self.names = LOOPBACK | {host.strip("[]").lower()} - EVERYWHERE
        self.any_address = host.strip("[]") in EVERYWHERE
        if self.any_address:
            name = socket.gethostname().lower()
            self.names |= {name, f"{name.partition('.')[0]}.local"}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif problem := self.problem(scope):
            await _answer(send, *problem)
        else:
            await self._forward(scope, receive, send)

    def problem(self, scope: Message) -> tuple[int, str] | None:
        """Status and message of a request that is refused by its address or its headers; None if it is not."""
        headers = _headers(scope)
        host = headers.get("host", "")
        if not self.is_own(host):
            return 403, "This page is not served under this name: use the address that vlcap demo printed."
        if scope["method"] not in READ and _is_foreign(headers, host):
            return 403, "Another site's page may not send anything here."
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return 403, "Another site's page may not read anything here."
        methods = [methods for methods, path in OPEN if re.fullmatch(path, scope["path"], re.ASCII)]
        if not methods:
            return 404, "There is no such address."
        if not any(scope["method"] in each for each in methods):
            return 405, "There is no such method at this address."
        return None

    def is_own(self, host: str) -> bool:
        """Whether a Host header names this machine. No name can be rebound to an address, so addresses are safe."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        return name in self.names or (self.any_address and _is_address(name)) or (bool(name) and name == self.shared())

    async def _forward(self, scope: Message, receive: Receive, send: Send) -> None:
        """Passes a request on, within the limits. A fault gets one line in the log, without what was sent."""
        exchange = _Exchange(receive, send)
        try:
            if scope["path"] == UPLOAD:
                with self.uploads.arrival(_length(scope)) as count:
                    await self.app(scope, exchange.receiving(count), exchange.send)
            else:
                count = _at_most(MAX_BODY)
                count(_length(scope))
                await self.app(scope, exchange.receiving(_at_most(MAX_BODY)), exchange.send)
        except (FullError, _TooLargeError) as error:
            exchange.excess = error
        except Exception as error:
            if type(error).__name__ != "ClientDisconnect":  # the visitor has left
                say(f"a request to {printable(scope['path'])} failed ({type(error).__name__})")
        if exchange.started:
            return
        if isinstance(exchange.excess, FullError):
            await _answer(send, 507, "The demo's room for photos is full: try again in ten minutes.")
        elif exchange.excess:
            await _answer(send, 413, f"Too large a request: at most {MAX_BODY // 1024} KB.")
        else:
            await _answer(send, 500, "The request could not be answered.")


class _Exchange:
    """One request and its response. After a limit was exceeded, what the app still says of it is not sent."""

    def __init__(self, receive: Receive, send: Send):
        self._receive, self._send = receive, send
        self.excess: Exception | None = None
        self.started = False

    def receiving(self, count: Callable[[int], None]) -> Receive:
        """The app's side of the request; `count` is told how many bytes have arrived."""

        async def receive() -> Message:
            message = await self._receive()
            try:
                count(len(message.get("body", b"")))
            except (FullError, _TooLargeError) as error:
                self.excess = error
                raise
            return message

        return receive

    async def send(self, message: Message) -> None:
        if self.excess is None or self.started:
            self.started = True
            await self._send(message)


def _headers(scope: Message) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _is_foreign(headers: dict[str, str], host: str) -> bool:
    """Whether a request was made by another site's page. Programs that are no browser send neither header."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return True
    return headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _length(scope: Message) -> int:
    length = _headers(scope).get("content-length", "0")
    return int(length) if length.isascii() and length.isdigit() else 0


def _at_most(limit: int) -> Callable[[int], None]:
    """A function that is told how many more bytes have arrived, and raises `_TooLargeError` above the limit."""
    arrived = 0

    def count(more: int) -> None:
        nonlocal arrived
        arrived += more
        if arrived > limit:
            raise _TooLargeError

    return count


async def _answer(send: Send, status: int, text: str) -> None:
    """A whole response, in the form of Gradio's own errors."""
    body = f'{{"detail": "{text}"}}'.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
