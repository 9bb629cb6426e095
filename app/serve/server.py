"""Serves the captioner: on this machine only by default, and to its end without losing an answer."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import uvicorn

from vlcap.bulk.work import captions_of

from ..address import HERE, AddressError, listening
from ..ending import ends_as_interrupts
from ..origin import Names, is_loopback
from ..printing import say
from .intake import Intake
from .metrics import Metrics
from .middleware import KEY, Middleware, key_asked_for
from .model import ServedModel
from .routes import build

PLACES = 64  # requests under way
BATCH = 16  # photos, for each lane of the engine
GRACE = 30  # seconds that requests under way get to be answered at the end
KEPT_ALIVE = 75  # seconds that an idle connection stays open: longer than the pools of proxies keep theirs


@dataclass
class Service:
    """A running server.

    Attributes:
        url: Its address.
        intake: The requests under way.
    """

    url: str
    intake: Intake
    server: uvicorn.Server
    thread: threading.Thread

    def close(self, grace: float = GRACE) -> None:
        """Answers what is under way, and refuses everything new with 503; after `grace` seconds, refuses all."""
        self.intake.closing = True
        until = time.monotonic() + grace
        while self.intake.under_way and time.monotonic() < until:
            time.sleep(0.02)
        self.server.should_exit = True
        self.intake.end()
        self.thread.join(grace + 5)


def start(
    model: ServedModel,
    host: str = HERE,
    port: int = 0,
    names: Sequence[str] = (),
    key: str | None = None,
    places: int = PLACES,
    batch_size: int = BATCH,
) -> Service:
    """Serves in the background. `close()` of the result stops it.

    Args:
        model: The captioner, and what may be asked of it.
        host: Address to listen on. Any other than this machine's own exposes the server to others.
        port: Port; 0 for any that is free.
        names: Other names that the server is asked under.
        key: Key that programs have to send; None if they need none.
        places: Requests that may be under way at once; further ones get 429.
        batch_size: Photos of a batch, for each lane of the engine.

    Raises:
        AddressError: The port is taken, or the host is not an address of this machine.
    """
    listener = listening(host, port)
    metrics = Metrics()
    intake = Intake(model.captioner, metrics, places, batch_size)
    middleware = Middleware(build(model, intake, metrics), Names(host, names), metrics, key, lambda: intake.closing)
    config = uvicorn.Config(
        middleware,
        log_config=None,
        log_level="critical",  # the middleware says what went wrong, in one line
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        timeout_keep_alive=KEPT_ALIVE,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server", daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise AddressError(f"--host {host}, port {port}: the server could not start")
        time.sleep(0.01)
    shown = f"[{host.strip('[]')}]" if ":" in host else host
    return Service(f"http://{shown}:{listener.getsockname()[1]}", intake, server, thread)


def warm_up(model: ServedModel, batch_size: int = 2) -> None:
    """Captions empty photos at all budgets, so that the first request takes as long as all others.

    Raises:
        CaptionerError, EncoderError: The captioner can't do what the server's owner chose.
    """
    captioner = model.captioner
    size, lanes = captioner.pixels.size, captioner.engine.lanes
    empty = np.zeros((batch_size, 3, size, size), dtype=np.uint8)
    for budget in model.budgets:
        for batches in ([empty[:1]], [empty] * lanes):
            for _ in captions_of(captioner, batches, model.wish(budget)):
                pass


def serve(
    model: ServedModel,
    host: str = HERE,
    port: int = 8000,
    names: Sequence[str] = (),
    places: int = PLACES,
    batch: int = BATCH,
) -> None:
    """Prints the address and serves until Ctrl-C, SIGTERM or SIGHUP. Arguments as for `start`.

    Raises:
        AddressError: The port is taken, or the host is not an address of this machine.
        ApiKeyError: $VLCAP_API_KEY is not usable.
    """
    key = key_asked_for()
    if not is_loopback(host):
        others = f"warning: --host {host}: everyone who can reach this machine over the network can use the server"
        say(others + (f", with the key in ${KEY}" if key else f"; ${KEY} sets a key"))
    service = None
    try:
        with ends_as_interrupts():
            warm_up(model)
            service = start(model, host, port, names, key, places, batch)
            print(f"vlcap serves {model.name} at {service.url} (press Ctrl-C to stop it).", flush=True)
            while service.thread.is_alive():
                time.sleep(0.2)
    except KeyboardInterrupt:
        print()  # after the terminal's ^C
    finally:
        if service is not None:
            service.close()
