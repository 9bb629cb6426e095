"""How long work shows its progress: the caller wraps the items that are worked on, and draws what it likes."""

from collections.abc import Callable, Iterable

Track = Callable[[Iterable, int, str], Iterable]  # (items, how many, what) -> the items, with progress shown


def no_track(items: Iterable, total: int, what: str) -> Iterable:
    """The `Track` that shows nothing."""
    return items
