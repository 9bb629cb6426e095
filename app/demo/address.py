"""Where the page is served: checked first, so that what is wrong with it takes one line."""

import contextlib
import errno
import os
import socket

from vlcap.errors import VlcapError

HERE = "127.0.0.1"
REASONS = {
    errno.EADDRINUSE: "port {port} is taken: choose another with --port",
    errno.EADDRNOTAVAIL: "--host {host}: not an address of this machine",
    errno.EACCES: "no permission to listen at port {port}: choose one above 1023 with --port",
}


class AddressError(VlcapError, OSError):
    """The page can't be served at the given host and port. The message says why, and what to change."""


def check_address(host: str, port: int | None) -> None:
    """Refuses a host and port where nothing can listen; None for the port stands for any.

    Raises:
        AddressError: The host is not an address of this machine, or the port is taken or not allowed.
    """
    if port is not None and not 1 <= port <= 65535:
        raise AddressError(f"--port {port}: there is no such port: choose one from 1024 to 65535")
    _listen(host, port or 0)


def _listen(host: str, port: int) -> None:
    """Raises AddressError if nothing can listen at this address."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with contextlib.closing(socket.socket(family, kind)) as listener:
            if os.name == "posix":  # on Windows, this would allow a port that is taken
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except (socket.gaierror, UnicodeError) as error:
        raise AddressError(f"--host {host}: no such name: give an address of this machine") from error
    except OSError as error:
        reason = REASONS.get(error.errno or 0, "--host {host}, port {port}: " + (error.strerror or "not possible"))
        raise AddressError(reason.format(host=host, port=port)) from error
