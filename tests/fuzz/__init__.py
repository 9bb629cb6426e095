"""Hostile inputs by the thousand: whatever a reader is given, it answers, or raises its one clear error.

    python -m tests.fuzz                                   # 10,000 inputs for every reader
    python -m tests.fuzz images --count 500 --seed 7       # 500 for one of them
    python -m tests.fuzz images --start 4711 --count 1     # the one that did harm, again

An input follows from the seed and its number alone. Each is read in a process that is watched: another exception than
the reader's own, a message that doesn't name the file, an end of the process, more than `SECONDS` of computing and more
than `MEMORY` are defects, printed with the command that shows them again; the exit status tells.
"""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import random
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SECONDS = 5.0  # of computing, for one input
PATIENCE = 60.0  # of waiting, on a machine that others use too, before a process counts as hanging
MEMORY = 1024  # MB, at any moment of reading one input, above what the process had before it


@dataclass(frozen=True)
class Reader:
    """What is fuzzed.

    Attributes:
        make: Writes input into an empty folder, by a random number generator; gives what `read` takes.
        read: Reads it, as the program does.
        errors: What it may raise.
        prepare: Is called once, before the processes part: imports, seeds of the inputs.
        count: Inputs of the long form.
        seconds: Of computing, for one input.
    """

    make: Callable[[random.Random, Path], Path]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]
    prepare: Callable[[], Any] = lambda: None
    count: int = 10_000
    seconds: float = SECONDS


@dataclass
class Report:
    """How many inputs were read, refused; what did harm; the worst of time and memory."""

    read: int = 0
    refused: int = 0
    defects: list[str] = field(default_factory=list)
    seconds: float = 0.0
    memory: float = 0.0
    messages: Counter = field(default_factory=Counter)


def fuzz(name: str, reader: Reader, count: int, seed: int, start: int = 0) -> Report:
    """Reads the inputs from `start` on in a process of their own, in a new one after a defect that ended it."""
    reader.prepare()
    report = Report()
    number, stop = start, start + count
    processes = multiprocessing.get_context("fork")
    while number < stop:
        ours, theirs = processes.Pipe()
        child = processes.Process(target=_work, args=(name, reader, range(number, stop), seed, theirs), daemon=True)
        child.start()
        theirs.close()
        while number < stop:
            defect = None
            try:
                if ours.poll(PATIENCE):
                    kind, detail, seconds, memory = ours.recv()
                else:
                    kind, detail, seconds, memory = "ended", f"no answer in {PATIENCE:g} s", 0.0, 0.0
            except EOFError:
                child.join()
                kind, detail, seconds, memory = "ended", f"the process ended with {child.exitcode}", 0.0, 0.0
            report.seconds, report.memory = max(report.seconds, seconds), max(report.memory, memory)
            if kind == "read":
                report.read += 1
            elif kind == "refused":
                report.refused += 1
                report.messages[detail] += 1
            else:
                defect = detail
            if seconds > reader.seconds:
                defect = f"took {seconds:.1f} s; {detail}"
            if memory > MEMORY:
                defect = f"took {memory:.0f} MB; {detail}"
            if defect:
                report.defects.append(f"python -m tests.fuzz {name} --seed {seed} --start {number} --count 1: {defect}")
            number += 1
            if kind == "ended":
                break
        child.kill()
        child.join()
        ours.close()
    return report


def _work(name: str, reader: Reader, numbers: range, seed: int, answers: Connection) -> None:
    """Reads inputs one after the other and tells of each: (kind, detail, seconds of computing, MB at most)."""
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    gc.freeze()  # what is imported stays: looking through it for each input would take longer than the reading
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries in C speak of what they find
    try:
        for number in numbers:
            folder = root / "input"
            folder.mkdir()
            given = reader.make(random.Random(f"{name} {seed} {number}"), folder)
            _reset_peak()
            before, held = time.process_time(), _resident("VmRSS")
            try:
                reader.read(given)
                kind, detail = "read", ""
            except reader.errors as error:
                kind, detail = "refused", str(error).replace(str(root), "")
                if problem := unclear(str(error), folder.name):
                    kind, detail = "defect", f"{problem}: {type(error).__name__}: {str(error)[:500]!r}"
            except BaseException as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                text = str(error)[:300]
                kind, detail = "defect", f"{type(error).__name__}: {text!r} ({where.filename}:{where.lineno})"
            answers.send((kind, detail, time.process_time() - before, _resident("VmHWM") - held))
            shutil.rmtree(folder)
    except (BrokenPipeError, KeyboardInterrupt):
        pass
    finally:
        shutil.rmtree(root, ignore_errors=True)


def unclear(message: str, name: str) -> str | None:
    """What a user would miss in an error's message, if anything: one line, not too long, with the file's name."""
    if "\n" in message.strip():
        return "a message of several lines"
    if len(message) > 1000:
        return f"a message of {len(message)} letters"
    if name not in message:
        return f"a message that doesn't name {name}"
    return None


def _reset_peak() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what making the input took isn't the reader's
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew (proc(5)); where that isn't allowed, it is the process's own


def _resident(field: str) -> float:
    """MB resident: now (VmRSS), or at most since the last reset (VmHWM)."""
    [line] = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024
