"""Where a server of ours listens: checked first, so that what is wrong with it takes one line."""

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
    """Nothing can be served at the given host and port. The message says why, and what to change."""


def check_address(host: str, port: int | None) -> None:
    """Refuses a host and port where nothing can listen; None for the port stands for any.

    Raises:
        AddressError: The host is not an address of this machine, or the port is taken or not allowed.
    """
    if port is not None and not 1 <= port <= 65535:
        raise AddressError(f"--port {port}: there is no such port: choose one from 1024 to 65535")
    listening(host, port or 0).close()


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens at this address. Who asks waits until a server takes it over.

    Args:
        host: Name or address of this machine.
        port: Port; 0 for any that is free.

    Raises:
        AddressError: Nothing can listen there.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        try:
            if os.name == "posix":  # on Windows, this would allow a port that is taken
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
        except OSError:
            listener.close()
            raise
        return listener
    except (socket.gaierror, UnicodeError) as error:
        raise AddressError(f"--host {host}: no such name: give an address of this machine") from error
    except OSError as error:
        reason = REASONS.get(error.errno or 0, "--host {host}, port {port}: " + (error.strerror or "not possible"))
        raise AddressError(reason.format(host=host, port=port)) from error
