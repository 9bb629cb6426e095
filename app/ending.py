"""How a server of ours, the demo or `vlcap serve`, ends: by Ctrl-C, by a service manager, or with its terminal."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

# SIGHUP, so that a closed terminal leaves no visitor's photo behind either; Windows has no SIGHUP.
ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def ends_as_interrupts() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does. For the main thread."""
    # An ignored signal stays ignored, as under nohup.
    handlers = {end: signal.signal(end, _interrupt) for end in ENDS if signal.getsignal(end) != signal.SIG_IGN}
    try:
        yield
    finally:
        for end, handler in handlers.items():
            signal.signal(end, handler)


def _interrupt(*unused: Any) -> None:
    raise KeyboardInterrupt
