"""The `vlcap` command and other programs in a process of their own, forked from one that has imported heavy packages.

Importing them takes longer than most programs run. tests/app/test_doors.py starts Python anew, as a shell does.
"""

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

# Packages of others alone: ours are imported in the new process, so that the tested files are those beside the test.
HEAVY = [
    *("torch", "timm", "accelerate", "datasets", "matplotlib.figure", "pyarrow.parquet"),
    *("transformers.generation", "transformers.models.gpt2.modeling_gpt2"),
    "transformers.models.vision_encoder_decoder.modeling_vision_encoder_decoder",
]
COMMAND = "from app.cli import main; main()"


def vlcap(*arguments: object) -> subprocess.CompletedProcess:
    """Runs the command: its exit status, standard output and standard error, both as text."""
    return run_forked(COMMAND, *arguments)


def run_forked(program: str, *arguments: object) -> subprocess.CompletedProcess:
    """The same for a program, given as Python source, with these arguments in its sys.argv."""
    [done] = run_side_by_side(program, *arguments, times=1)
    return done


def run_side_by_side(program: str, *arguments: object, times: int = 2) -> list[subprocess.CompletedProcess]:
    """The same several times at once."""
    return _run(program, arguments, [{}] * times)


def vlcap_on_two(*arguments: object) -> subprocess.CompletedProcess:
    """Runs the command on two processes with torchrun's variables; what the first one said. Both have to succeed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both = _run(COMMAND, arguments, [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"])
    for each in both:
        assert each.returncode == 0, each.stderr
    return both[0]


def _run(
    program: str, arguments: tuple[object, ...], variables: list[dict[str, str]]
) -> list[subprocess.CompletedProcess]:
    """Runs a program once for each set of environment variables, side by side."""
    words, usual = ["vlcap", *map(str, arguments)], {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    with tempfile.TemporaryDirectory() as folder:
        places = [[Path(folder, f"{name}-{number}") for name in ("out", "err")] for number in range(len(variables))]
        processes = [
            context.Process(target=_start, args=(program, words, os.getcwd(), {**os.environ, **usual, **own}, streams))
            for own, streams in zip(variables, places, strict=True)
        ]
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join()
        finally:
            for process in processes:  # of which one may run still, if the test's time is up
                if process.exitcode is None and process.pid:
                    process.kill()
                    process.join()
        return [
            subprocess.CompletedProcess(words, process.exitcode, *(place.read_text() for place in streams))
            for process, streams in zip(processes, places, strict=True)
        ]


def _start(program: str, words: list[str], folder: str, environment: dict[str, str], streams: list[Path]) -> None:
    """The new process: its streams are files, and its exit status is the program's."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, place in enumerate((Path(os.devnull), *streams)):
        opened = os.open(place, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = words
    import torch

    torch.set_num_threads(1)  # the variable was read in the process that this one was forked from
    exec(program, {"__name__": "__main__"})
