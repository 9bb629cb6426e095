"""Where a request gets a place, has its body read and its photo decoded, and waits for its captions.

    place -> body, within limits -> reader thread -> batching.py -> captions

All that is held in memory is bounded: requests under way, bytes of their bodies, photos that are decoded at once.
"""

import asyncio
import contextlib
import math
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from vlcap.bulk.work import Wish
from vlcap.captioner import Caption, Captioner
from vlcap.data.images import ImageError
from vlcap.errors import is_expected

from ..asgi import length_of
from ..photos import open_photo
from .batching import Batching
from .errors import ApiError, gone, wrong
from .metrics import Metrics

MAX_BODY = 20 * 1024**2  # bytes of a request
MAX_BODIES = 256 * 1024**2  # bytes of all requests whose photos are not decoded yet
ARRIVAL = 60  # seconds that a body may take to arrive
READERS = 4  # photos that are decoded at once, at most

Done = TypeVar("Done")


class Intake:
    """The requests for captions of one server.

    Args:
        captioner: The captioner.
        metrics: The metrics.
        places: Requests that may be under way at once.
        most: Photos of a batch for each lane of the engine.
    """

    def __init__(self, captioner: Captioner, metrics: Metrics, places: int, most: int):
        self.captioner, self.places = captioner, places
        self.batching = Batching(captioner, most, metrics.captioned)
        self.under_way = 0
        self.closing = False
        self._level = 0  # bytes of bodies
        self._readers = ThreadPoolExecutor(min(READERS, os.cpu_count() or 1), thread_name_prefix="reader")
        metrics.watch(lambda: len(self.batching), lambda: self.under_way)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place for a request, from its head to its captions.

        Raises:
            ApiError: All are taken.
        """
        if self.under_way >= self.places:
            raise self._full()
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    def _full(self) -> ApiError:
        """Says when to come again: when those that wait now have been captioned, by the pace of late."""
        seconds = min(60, max(1, math.ceil(len(self.batching) * self.batching.pace)))
        busy = f"The server has as much to do as it can take: try again in {seconds} s."
        return ApiError(429, busy, "queue_full", headers={"Retry-After": str(seconds)})

    @contextlib.asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, to be let go as soon as its photo is decoded.

        Raises:
            ApiError: It is too large, comes too slowly, or is broken off; or the others' bodies fill the memory.
        """
        if length_of(request.scope) > MAX_BODY:
            raise _too_large()
        held = 0

        def hold(more: int) -> None:
            nonlocal held
            held += more
            self._level += more
            if held > MAX_BODY:
                raise _too_large()
            if self._level > MAX_BODIES:
                raise self._full()

        try:
            yield await _arrived(request, hold)
        finally:
            self._level -= held

    async def in_reader(self, work: Callable[..., Done], *arguments: Any) -> Done:
        """The result of a function that takes a while, from one of the few threads that read requests."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work, *arguments)

    def pixels(self, photo: bytes, name: str, param: str | None = None) -> NDArray[np.uint8]:
        """The file of a photo -> uint8 pixels (3, S, S). For a reader.

        Raises:
            ApiError: It is no photo that can be read.
        """
        try:
            return self.captioner.pixels.cut(open_photo(photo, name=name))
        except ImageError as error:
            raise wrong(str(error), param, "unreadable_photo") from None

    @contextlib.contextmanager
    def decoding(self) -> Iterator[None]:
        """While a photo is being decoded, a batch waits for it a moment."""
        self.batching.decoding += 1
        try:
            yield
        finally:
            self.batching.decoding -= 1

    async def captions(self, request: Request, pixels: NDArray[np.uint8], wish: Wish) -> Sequence[Caption]:
        """The captions of a photo, the best first. If the program leaves, its photo leaves the queue.

        Args:
            request: The request, whose body has been read.
            pixels: uint8 (3, S, S).
            wish: What is asked for.

        Raises:
            ApiError: The captioner can't do it, or the program has left, or the server ends.
        """
        found: asyncio.Future[list[Caption]] = asyncio.wrap_future(self.batching.add(pixels, wish))
        leaving = asyncio.create_task(_gone(request))
        either: list[asyncio.Future[Any]] = [found, leaving]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not found.done():
                raise gone()
            return found.result()
        except asyncio.CancelledError:
            raise ApiError(503, "The server ends.", "ending") from None
        except ApiError:
            raise
        except Exception as error:
            if isinstance(error, OSError) or not is_expected(error):
                raise
            raise wrong(f"The captioner can't do this: {error}", None, "not_possible") from error
        finally:
            leaving.cancel()
            found.cancel()

    def end(self) -> None:
        """Ends the threads. Who still waits is refused."""
        self.batching.end()
        self._readers.shutdown(wait=False, cancel_futures=True)


async def _arrived(request: Request, hold: Callable[[int], None]) -> bytes:
    """The whole body of a request; `hold` is told how many bytes come, before they are kept."""
    chunks: list[bytes] = []
    try:
        async with asyncio.timeout(ARRIVAL):
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise gone()
                chunk, more = message.get("body", b""), message.get("more_body", False)
                hold(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        raise ApiError(408, f"The request took more than {ARRIVAL} s to arrive.", "too_slow") from None
    return b"".join(chunks)


async def _gone(request: Request) -> None:
    """Returns when the program has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _too_large() -> ApiError:
    most = f"at most {MAX_BODY // 1024**2} MB; base64 makes a photo a third larger"
    return ApiError(413, f"The request is too large: {most}.", "too_large")
