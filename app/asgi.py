"""What stands in front of a web app, in ASGI's words: the types of its calls, and what a request's head says."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def headers_of(scope: Message) -> dict[str, str]:
    """Values by lower-case name; the last one of a name that comes twice."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def length_of(scope: Message) -> int:
    """Bytes of the body by Content-Length; 0 if it does not say."""
    length = headers_of(scope).get("content-length", "0")
    return int(length) if length.isascii() and length.isdigit() else 0
