"""What the texts of options mean: names, budgets, corruptions, captions of other programs."""

import math
from pathlib import Path

import typer

from vlcap.data.names import one_line


def parse_named(option: str, text: str) -> tuple[str, str]:
    """NAME=SOURCE or SOURCE -> name and source.

    A path that exists is a source, whatever its name holds. So is anything with a slash or a colon before the equals
    sign. Without a name, it is that of the source's folder, or RUN of RUN/captioner and RUN/encoder.

    Raises:
        BadParameter: The name or the source is empty.
    """
    name, equals, source = text.partition("=")
    path = Path(text)
    if equals and not {"/", ":"} & {*name} and not path.exists():
        if not (name and source):
            raise typer.BadParameter(f"{option} {text}: an empty name: is a shell's variable unset?")
        return one_line(name), source
    return one_line(path.resolve().parent.name if path.name in ("captioner", "encoder") else path.name), text


def parse_budget(text: str | None) -> int | None:
    """The number that --budget names; None for the model's own, and for auto.

    Raises:
        BadParameter: It is neither.
    """
    if text is None or text == "auto":
        return None
    if not (text.isascii() and text.isdecimal()) or not int(text):
        raise typer.BadParameter(f"--budget {text}: a whole number from 1, or auto")
    return int(text)


def choose_corruptions(
    wanted: bool, names: list[str] | None, severities: list[int] | None, size: int
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and severities that the options ask for.

    Raises:
        BadParameter: They are given without --corruptions.
        CorruptionError: They cannot be had.
    """
    from vlcap.data.corruptions import CORRUPTIONS, SEVERITIES, check_corruptions

    if not wanted and (names or severities):
        raise typer.BadParameter("--corruption and --severity go with --corruptions")
    chosen = tuple(dict.fromkeys(names or CORRUPTIONS)), tuple(sorted({*(severities or SEVERITIES)}))
    if wanted:
        check_corruptions(*chosen, size)
    return chosen


def parse_predictions(text: str) -> tuple[str, Path, float | None]:
    """NAME=FILE or NAME=FILE:GFLOPS -> name, file, and GFLOPs per photo.

    A path that exists is a file, whatever its name ends in.

    Raises:
        BadParameter: A part is missing, or the GFLOPs are no positive number.
    """
    name, _, rest = text.partition("=")
    file, colon, cost = rest.rpartition(":")
    if not name or not rest or "/" in name:
        raise typer.BadParameter(f"--predictions {text}: NAME=FILE, or NAME=FILE:GFLOPS")
    if not colon or Path(rest).exists():
        return one_line(name), Path(rest), None
    try:
        gflops = float(cost)
    except ValueError:
        return one_line(name), Path(rest), None  # a colon in the file's name
    if not 0 < gflops < math.inf:
        raise typer.BadParameter(f"--predictions {text}: {cost} GFLOPs: a positive number, or leave it out")
    return one_line(name), Path(file), gflops
