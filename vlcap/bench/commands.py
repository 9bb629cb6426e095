"""Whole commands, each in a process of its own: from the shell to a caption, and a folder of photos."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from ..captioner import Captioner
from ..data.images import find_images
from .timing import Row, compared, paired_times

IMPORT = "import torch"
CAPTION = ["-m", "app.cli", "caption"]
BATCH = 16  # photos, as `vlcap caption` has it


# A process counts the memory of the one that it was forked from: a small one has to stand between.
PEAK = """
import resource, subprocess, sys
subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def run(command: list[str]) -> None:
    """Runs Python with these arguments until it ends."""
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def peak_megabytes(command: list[str]) -> float:
    """Peak memory of Python with these arguments."""
    done = subprocess.run([sys.executable, "-c", PEAK, *command], capture_output=True, text=True, check=True)
    return int(done.stdout) * (1024 if sys.platform != "darwin" else 1) / 1e6  # macOS counts bytes, Linux kilobytes


def paired_commands(commands: Mapping[str, list[str]], rounds: int) -> list[Row]:
    """A row for each command, with its time and its peak memory; the first one is what they are compared with."""
    functions = {name: partial(run, command) for name, command in commands.items()}
    against = next(iter(commands))
    rows = compared(paired_times(functions, rounds), against=against)
    return [{**row, "megabytes": peak_megabytes(commands[row["what"]]), "against": against} for row in rows]


def bench_startup(quick: bool = False) -> list[Row]:
    """From the shell to the caption of one photo, against a Python that only imports PyTorch."""
    with TemporaryDirectory() as folder:
        photo = _write_photos(Path(folder), count=1)[0]
        commands = {
            f"python -c '{IMPORT}'": ["-c", IMPORT],
            "vlcap caption photo.jpg": [*CAPTION, str(photo), "--engine", "onnx"],
            "vlcap caption photo.jpg --engine pytorch": [*CAPTION, str(photo), "--engine", "pytorch"],
        }
        return paired_commands(commands, rounds=2 if quick else 7)


def bench_folder(quick: bool = False) -> list[Row]:
    """A folder of photos to captions by the bundled captioner: ONNX Runtime against PyTorch, and the parts alone."""
    count = 32 if quick else 256
    with TemporaryDirectory() as name:
        paths = _write_photos(Path(name), count)
        commands = {
            "vlcap caption FOLDER --engine pytorch": [*CAPTION, name, "--engine", "pytorch"],
            "vlcap caption FOLDER": [*CAPTION, name, "--engine", "onnx"],
        }
        rows = paired_commands(commands, rounds=1 if quick else 3)
        parts = _parts(paths)
        rows += [
            {**row, "megabytes": None, "against": ""} for row in compared(paired_times(parts, 2), next(iter(parts)))
        ]
    slowest = max(row["ms"] for row in rows[2:])
    return [
        {
            "what": row["what"],
            "photos_per_second": 1000 * count / row["ms"],
            "times_faster": row["times_faster"] if row["against"] else None,
            "of_the_slowest_part": slowest / row["ms"] if row["against"] else None,
            "megabytes": row["megabytes"],
            "against": row["against"],
        }
        for row in rows
    ]


def _parts(paths: list[Path]) -> dict[str, Callable[[], Any]]:
    """What captioning a folder consists of, each alone: reading on one thread, encoding and decoding as it is done."""
    captioner = Captioner.from_pretrained(engine="onnx")
    pixels = captioner.preprocess(paths)
    batches = [pixels[i : i + BATCH] for i in range(0, len(pixels), BATCH)]
    tokens = [captioner.encode(batch) for batch in batches]
    return {
        "reading alone, one thread": lambda: captioner.preprocess(paths),
        "encoder alone": lambda: [captioner.encode(batch) for batch in batches],
        "decoder alone": lambda: [captioner.write(each) for each in tokens],
    }


def bench_demo(quick: bool = False) -> list[Row]:
    """From a photo to its whole caption, as the page's `stream` does it: ONNX Runtime against PyTorch."""
    engines = {name: Captioner.from_pretrained(engine=name) for name in ("pytorch", "onnx")}
    with TemporaryDirectory() as folder:
        [photo] = _write_photos(Path(folder), count=1)

        def caption(captioner: Captioner) -> None:
            *_, last = captioner.stream(captioner.preprocess([photo]))
            assert last.text

        functions = {name: partial(caption, captioner) for name, captioner in engines.items()}
        rows = compared(paired_times(functions, 3 if quick else 15), against="pytorch")
    return [{**row, "against": "pytorch"} for row in rows]


def _write_photos(folder: Path, count: int) -> list[Path]:
    """JPEG photos of smooth noise, 640 x 480."""
    for number in range(count):
        noise = np.random.default_rng(number).integers(256, size=(60, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((640, 480)).save(folder / f"{number:03}.jpg", quality=90)
    return find_images([folder]).images
