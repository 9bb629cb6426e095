"""What stands before Gradio: who may ask, which of its addresses exist, and how much may be sent.

    browser -> Guard -> Gradio's app

Only the routes in `OPEN` are answered, so that a new version of Gradio opens none that nobody has looked at. Who may
ask at all is in app/origin.py.
"""

import re
from collections.abc import Callable

from vlcap.data.names import printable

from ..asgi import App, Message, Receive, Send, headers_of, length_of
from ..origin import READ, Names, problem_with
from ..printing import say
from .uploads import FullError, Uploads

MAX_BODY = 1024**2  # bytes of a request that is no upload: values of fields, with photos as paths
UPLOAD = "/gradio_api/upload"
POST = ("POST",)
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
        self.names = Names(host)

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
        headers = headers_of(scope)
        if not self.is_own(headers.get("host", "")):
            return 403, "This page is not served under this name: use the address that vlcap demo printed."
        if foreign := problem_with(scope["method"], headers):
            return 403, foreign
        methods = [methods for methods, path in OPEN if re.fullmatch(path, scope["path"], re.ASCII)]
        if not methods:
            return 404, "There is no such address."
        if not any(scope["method"] in each for each in methods):
            return 405, "There is no such method at this address."
        return None

    def is_own(self, host: str) -> bool:
        """Whether a Host header names this machine, or the public link."""
        return self.names.has(host, self.shared())

    async def _forward(self, scope: Message, receive: Receive, send: Send) -> None:
        """Passes a request on, within the limits. A fault gets one line in the log, without what was sent."""
        exchange = _Exchange(receive, send)
        try:
            if scope["path"] == UPLOAD:
                with self.uploads.arrival(length_of(scope)) as count:
                    await self.app(scope, exchange.receiving(count), exchange.send)
            else:
                count = _at_most(MAX_BODY)
                count(length_of(scope))
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
