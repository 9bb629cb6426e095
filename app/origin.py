"""Who may ask a server of ours: programs and people of this machine, by its own names, and no other site's page.

Another name that leads here is a trick (DNS rebinding): a browser takes the page of that name for the server's own. The
demo's guard and the middleware of `vlcap serve` ask this file.
"""

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

READ = ("GET", "HEAD")
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
EVERYWHERE = {"0.0.0.0", "::"}


class Names:
    """The names that a server is asked under.

    Args:
        host: Address that it listens on.
        others: Names that lead to it by its owner's will.
    """

    def __init__(self, host: str, others: Iterable[str] = ()):
        self.all = LOOPBACK | {host.strip("[]").lower()} - EVERYWHERE | {_bare(name) for name in others}
        self.any_address = host.strip("[]") in EVERYWHERE
        if self.any_address:
            name = socket.gethostname().lower()
            self.all |= {name, f"{name.partition('.')[0]}.local"}

    def has(self, host: str, also: str | None = None) -> bool:
        """Whether a Host header names the server. No name can be rebound to an address, so addresses are safe.

        Args:
            host: The header.
            also: One more name that it has at the moment.
        """
        name = _bare(host)
        return bool(name) and (name in self.all or (self.any_address and _is_address(name)) or name == also)


def problem_with(method: str, headers: Mapping[str, str]) -> str | None:
    """Why a request to a name of ours may not be made from where it was made; None if it may.

    Args:
        method: Its method.
        headers: Its headers by lower-case name.
    """
    if method not in READ and _is_foreign(headers):
        return "Another site's page may not send anything here."
    if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
        return "Another site's page may not read anything here."
    return None


def _is_foreign(headers: Mapping[str, str]) -> bool:
    """Whether a request was made by another site's page. Programs that are no browser send neither header."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        return True
    return headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on this host."""
    name = host.strip("[]").lower()
    return name in LOOPBACK or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


def _bare(host: str) -> str:
    """A host without port, brackets and final dot; "" if it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False
