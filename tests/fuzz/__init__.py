"""Fuzzing with thousands of hostile inputs. For any input, a reader must return a result or raise its clear error.

    python -m tests.fuzz                                   # 10,000 inputs for every reader
    python -m tests.fuzz images --count 500 --seed 7       # 500 for one reader
    python -m tests.fuzz images --start 4711 --count 1     # one defect, shown again

The seed and the number of an input determine it. Each input is read in a process that is watched. These are defects:
an exception that is not the reader's own, a message that does not name the file, the end of the process, more than
`SECONDS` of computing, and more than `MEMORY`. Each defect is printed with the command that shows it again, and then
the exit status is 1.
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

SECONDS = 5.0  # computing time for one input
PATIENCE = 60.0  # waiting time on a shared machine before a process counts as hanging
MEMORY = 1024  # MB while one input is read, above what the process had before


@dataclass(frozen=True)
class Reader:
    """A reader to fuzz.

    Attributes:
        make: Function that writes an input into an empty folder, from a random number generator, and returns its path.
        read: Function that reads the input as the program does.
        errors: Errors that it may raise.
        prepare: Function that is called once, before the processes are forked: imports, seeds of the inputs.
        count: Number of inputs in a full run.
        seconds: Largest computing time for one input.
    """

    make: Callable[[random.Random, Path], Path]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]
    prepare: Callable[[], Any] = lambda: None
    count: int = 10_000
    seconds: float = SECONDS


@dataclass
class Report:
    """Numbers of inputs read and refused, the defects, and the largest time and memory."""

    read: int = 0
    refused: int = 0
    defects: list[str] = field(default_factory=list)
    seconds: float = 0.0
    memory: float = 0.0
    messages: Counter = field(default_factory=Counter)


def fuzz(name: str, reader: Reader, count: int, seed: int, start: int = 0) -> Report:
    """Reads the inputs from `start` on in a separate process, and in a new one if a defect ends it."""
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
    """Reads inputs one by one, and sends for each (kind, detail, seconds of computing, largest MB)."""
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    gc.freeze()  # imported objects stay: collecting them for each input would take longer than reading it
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C libraries print what they find
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
    """The flaw of an error message, or "": it must be one line, not too long, and name the file."""
    if "\n" in message.strip():
        return "a message of several lines"
    if len(message) > 1000:
        return f"a message of {len(message)} letters"
    if name not in message:
        return f"a message that doesn't name {name}"
    return None


def _reset_peak() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that making the input took does not count
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the peak (proc(5)); if that is not allowed, the peak of the whole process counts


def _resident(field: str) -> float:
    """Resident memory in MB: the present one (VmRSS), or the peak since the last reset (VmHWM)."""
    [line] = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024
