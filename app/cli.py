"""The `vlcap` command: its command tree and its handling of errors. app/commands holds the commands.

Results go to standard output, everything else to standard error. Exit status: 0 success, 1 some input failed, 2 usage
error. Heavy packages are imported by the command that needs them, so that `vlcap --help` answers at once.
"""

import errno
import io
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from .commands.auto_budget import auto_budget
from .commands.bench import bench
from .commands.caption import attention, caption
from .commands.compare import compare
from .commands.data import data
from .commands.demo import demo
from .commands.evaluate import baselines, evaluate, score
from .commands.export import encoders, export
from .commands.probe import probe
from .commands.push import push
from .commands.serve import serve
from .commands.study import study, table3
from .commands.train import train
from .printing import say

PACKAGES = [Path(__file__).parents[1] / name for name in ("app", "encoders", "train", "vlcap")]
QUIET = ("attention", "export", "train")  # commands whose results are files

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Caption photos with few visual tokens; train, evaluate and compare captioners.",
)
COMMANDS = (
    *(caption, demo, serve, evaluate, score, baselines, compare, probe, auto_budget),
    *(data, attention, export, push, encoders),
)
for command in COMMANDS:
    app.command()(command)
train.command()(study)
train.command()(table3)
app.add_typer(train, name="train")
app.add_typer(bench, name="bench")


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,  # see `main`
) -> None:
    if getattr(sys.stdout, "name", None) == os.devnull and context.invoked_subcommand not in QUIET:
        raise OSError("standard output is closed: there is nowhere to print to")


def main() -> None:
    """The entry point. An error is one line, or a traceback with --debug anywhere on the command line."""
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ["VLCAP_DEBUG"] = "1"
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed: the next file that is opened would take its place
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - until the end
    for stream in (sys.stdout, sys.stderr):  # file names may hold characters that the terminal's encoding lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _warn
    try:
        _refuse_empty(sys.argv[1:])
        try:
            app()
        finally:
            sys.stdout.flush()  # now, while a full disk can still be reported
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # BaseException, because panics of libraries written in Rust are no Exception
        if os.environ.get("VLCAP_DEBUG"):
            raise
        if not isinstance(error, BrokenPipeError):  # the reader of the pipe has gone: nobody needs a message
            say(_reason(error))
        _give_up_unwritten()
        sys.exit(getattr(error, "exit_status", 1))


def _refuse_empty(arguments: list[str]) -> None:
    """Refuses empty names. They would mean the current folder or no option; usually a shell's variable is unset."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, value = argument.partition("=") if argument.startswith("--") else (before, "=", argument)
        if equals and not value and option != "--constant":  # a caption may be empty
            say(f"an empty name{f' for {option}' if option.startswith('-') else ''}: is a shell's variable unset?")
            sys.exit(2)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """Prints our own warnings in one line for a person, and those of libraries as Python does."""
    if category is UserWarning and any(Path(filename).is_relative_to(folder) for folder in PACKAGES):
        say(f"warning: {message}")
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=sys.stderr)


def _reason(error: BaseException) -> str:
    """The error in one line for a person. An unexpected one is named by its class, with a hint at --debug."""
    from vlcap.errors import is_expected

    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    if "Original Traceback" in text:  # from a process that loads photos: the last line is the error itself
        text = text.splitlines()[-1].partition(": ")[2] or text.splitlines()[-1]
    text = " ".join(text.split())
    if getattr(error, "errno", None) == errno.ENOSPC:
        text += ": make room on the disk"
    return text if is_expected(error) else f"{type(error).__name__}: {text} (--debug shows where)"


def _give_up_unwritten() -> None:
    """Discards output that can't be written: Python would try again at exit, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
