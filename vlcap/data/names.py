"""Names from outside, of files and of splits, made fit for a message: on one line, and not endless."""

from collections.abc import Iterable


def one_line(path: object) -> str:
    """A path as it is if it fits on one line; otherwise with the characters that would break the line escaped."""
    return path if (path := str(path)).isprintable() else repr(path)


def printable(name: str) -> str:
    """A name on one line, at most 200 characters, without characters that could reverse or hide parts of it."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)[-200:]


def plain_line(text: str) -> str:
    """A text of a model, which may be a stranger's, on one line for a terminal.

    Spaces and ends of lines become single spaces. Control characters, with which a text can change a terminal, are left
    out, and so are those that reverse or hide letters.
    """
    return " ".join("".join(letter for letter in " ".join(text.split()) if letter.isprintable()).split())


def shown(name: str) -> str:
    """A name out of a file, on one line and at most 200 characters."""
    return f"{one_line(name):.200}"


def listed(names: Iterable[str]) -> str:
    """The first ten names, separated by commas, or "nothing"."""
    names = list(names)
    return ", ".join(map(shown, names[:10])) + (", ..." if len(names) > 10 else "") or "nothing"
