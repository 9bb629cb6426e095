"""What the commands print: results on standard output, messages and progress on standard error."""

import itertools
import json
import sys
from collections.abc import Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")


def say(message: str) -> None:
    """Prints a message for a person."""
    print(f"vlcap: {message}", file=sys.stderr)


def track(items: Iterable[Item], total: int | None, what: str) -> Iterable[Item]:
    """Shows a progress bar while the items are consumed; `total` is None where their number is unknown."""
    from rich.console import Console
    from rich.progress import track

    return track(items, description=what, total=total, console=Console(file=sys.stderr), transient=True)


def print_json(value: Any, indent: int | None = None) -> None:
    """Prints JSON. Letters that the output lacks or that can change a terminal are escaped."""
    text = "".join(map(_escaped, json.dumps(value, indent=indent, ensure_ascii=False)))
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)
    print(text)


def _escaped(letter: str) -> str:
    """A letter of a JSON text; one that is not printable stands inside a string, and is escaped as JSON escapes it."""
    return letter if letter.isprintable() or letter == "\n" else json.dumps(letter)[1:-1]


def print_scores(report: dict[str, Any], as_json: bool) -> None:
    """Prints the metrics of a report x 100, or the whole report as JSON."""
    if as_json:
        print_json(report, indent=2)
        return
    names = [*itertools.takewhile(lambda name: name != "N", report)]  # the scores come before N
    width = max([8, *map(len, names)])
    for name in names:
        print(f"{name:{width}} {report[name] * 100:6.2f}   (x 100, N = {report['N']})")
