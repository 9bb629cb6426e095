"""What the tests of `vlcap serve` share: requests as a program makes them, and a crowd of programs."""

import base64
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from vlcap.auto_budget import AutoBudget

from .demo_captioner import photo
from .demo_visitors import Server, Visit, sample, served

CHAT = "/v1/chat/completions"
KEY_OF_TEST = "a key"
DOUBTS = AutoBudget((2, 3), threshold=1.0)  # no caption is that sure: all end at 3


def png(photo: Image.Image) -> bytes:
    file = io.BytesIO()
    photo.save(file, "PNG")
    return file.getvalue()


def data_uri(photo: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(photo).decode()}"


def messages(*urls: str, text: str = "What is in this photo?") -> list[dict[str, Any]]:
    """One message with a text and photos."""
    photos = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": text}, *photos]}]


def body(photo: bytes, **fields: Any) -> bytes:
    """A whole request of a chat completion."""
    return json.dumps({"messages": messages(data_uri(photo)), **fields}).encode()


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error, with all of its fields."""
        error = self.json["error"]
        assert error.keys() == {"message", "type", "param", "code"} and error["message"]
        return error


class Asker:
    """A program without a library, which keeps its connection."""

    def __init__(self, url: str, timeout: float = 60):
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)

    def ask(self, method: str, path: str, content: Any = None, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, content, named)
        response = self.connection.getresponse()
        text = response.read().decode()
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, text)


def ask(url: str, method: str, path: str, content: Any = None, **headers: str) -> Reply:
    asker = Asker(url)
    try:
        return asker.ask(method, path, content, **headers)
    finally:
        asker.connection.close()


@contextmanager
def serving(model: Path | None, folder: Path, *options: str) -> Iterator[Server]:
    """`vlcap serve` in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with served(model, folder, "serve", "--port", str(port), *options) as server:
        yield server


def crowd(server: Server, clients: int, seconds: float, photos: dict[bytes, str]) -> Visit:
    """Lets programs ask all at once, again and again, each after its answer.

    Args:
        server: Whom.
        clients: How many.
        seconds: How long.
        photos: Captions by request; each answer must be its caption.
    """
    found, end, requests = Visit(), threading.Event(), list(photos.items())
    lock = threading.Lock()

    def program(number: int) -> None:
        asker, turn = Asker(server.url), number
        while not end.is_set():
            content, wanted = requests[turn % len(requests)]
            turn += 1
            try:
                kind = _kind(asker.ask("POST", CHAT, content, Content_Type="application/json"), wanted)
            except Exception as error:
                with lock:
                    found.wrong.append(f"lost: {type(error).__name__}: {error}")
                asker.connection.close()
                continue
            with lock:
                if kind.startswith("wrong"):
                    found.wrong.append(kind)
                else:
                    found.answers[kind] += 1
        asker.connection.close()

    programs = [threading.Thread(target=program, args=(number,)) for number in range(clients)]
    sampler = threading.Thread(target=sample, args=(server, found.levels, end, seconds / 40))
    for each in (*programs, sampler):
        each.start()
    time.sleep(seconds)
    end.set()
    for each in (*programs, sampler):
        each.join(90)
    found.wrong += [f"lost: {each.name} got no answer" for each in programs if each.is_alive()]
    return found


def _kind(reply: Reply, wanted: str) -> str:
    if reply.status == 429:
        time.sleep(min(1.0, float(reply.headers["retry-after"])))
        return "429"
    if reply.status != 200:
        return f"wrong: {reply.status} {reply.text:.200}"
    text = reply.json["choices"][0]["message"]["content"]
    return "answered" if text == wanted else f"wrong: {text!r} for {wanted!r}"


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Waits for something that happens in another thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def complete(client: Any, *photos: Image.Image, **settings: Any) -> Any:
    """A completion by OpenAI's client."""
    sent = messages(*map(data_uri, map(png, photos)))
    return client.chat.completions.create(**{"model": "tiny_random", "messages": sent, **settings})


def said(captioner: Any, seed: int, budget: int = 3, **settings: Any) -> str:
    """The caption of a photo of `photo`, alone."""
    return captioner.caption([png(photo(seed))], budget=budget, **settings)[0]
