"""What the tests of load share: a server in a process of its own, and visitors who ask it again and again."""

import contextlib
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from gradio_client import Client
from gradio_client.utils import QueueError

REPOSITORY = Path(__file__).parents[2]


@dataclass
class Server:
    """`vlcap demo` or `vlcap serve`, running: where it is, what it said, where all its temporary files lie."""

    url: str
    process: psutil.Popen
    temporary: Path
    log: Path

    def memory(self) -> float:
        """MB resident."""
        return self.process.memory_info().rss / 1024**2

    def files(self) -> list[Path]:
        return [path for path in self.temporary.rglob("*") if path.is_file()]

    def end(self) -> int:
        """As a service manager ends it; its exit status."""
        self.process.terminate()
        return self.process.wait(60)


@contextlib.contextmanager
def served(model: Path | None, folder: Path, *command: str) -> Iterator[Server]:
    """The demo of a captioner, None for the bundled one; or another command that serves, with its options."""
    temporary, log = folder / "temporary", folder / "log.txt"
    temporary.mkdir()
    chosen = [] if model is None else ["--model", str(model)]
    words = [sys.executable, "-m", "app.cli", *(command or ("demo",)), *chosen]
    environment = os.environ | {"TMPDIR": str(temporary), "GRADIO_ANALYTICS_ENABLED": "False"}
    with open(log, "w") as out:
        process = psutil.Popen(words, cwd=REPOSITORY, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        while not (said := re.search(r"http://[\d.:]+", log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield Server(said[0], process, temporary, log)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        process.wait(10)


@dataclass
class Visit:
    """How a crowd's visit went: answers by kind, what nobody may be answered, MB of the server at even intervals."""

    answers: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    levels: list[float] = field(default_factory=list)

    def rise(self, level: Callable[[list[float]], float] = statistics.median) -> float:
        """MB between the second quarter of the time and the last: the first warms up. `level` is a quarter's level."""
        quarter = len(self.levels) // 4
        return level(self.levels[-quarter:]) - level(self.levels[quarter : 2 * quarter])


def visit(
    server: Server,
    clients: int,
    seconds: float,
    ask: Callable[[Client, int, int], str],
    meanwhile: Callable[[], None] = lambda: time.sleep(0.5),
) -> Visit:
    """Lets clients ask all at once, again and again.

    Args:
        server: Whom.
        clients: How many.
        seconds: How long.
        ask: Of a client, its number and how often it has asked, gives the kind of the answer; raises what is wrong.
        meanwhile: What this thread does, over and over.
    """
    found = Visit()
    making, ready, end = threading.Lock(), threading.Barrier(clients + 1, timeout=120), threading.Event()

    def visitor(number: int) -> None:
        with making:  # all at once would only take longer
            client = Client(server.url, verbose=False)
        ready.wait()
        turn = 0
        while not end.is_set():
            try:
                found.answers[ask(client, number, turn)] += 1
            except QueueError as error:
                assert "full" in str(error)
                found.answers["queue full"] += 1
                time.sleep(0.2)
            except Exception as error:
                found.wrong.append(f"{type(error).__name__}: {error}")
            turn += 1
        client.close()

    visitors = [threading.Thread(target=visitor, args=(number,)) for number in range(clients)]
    for each in visitors:
        each.start()
    ready.wait()
    sampler = threading.Thread(target=sample, args=(server, found.levels, end, seconds / 40))
    sampler.start()
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        meanwhile()
    end.set()
    for each in (*visitors, sampler):
        each.join(60)
    found.wrong += [f"{each.name} got no answer" for each in visitors if each.is_alive()]
    return found


def sample(server: Server, levels: list[float], end: threading.Event, every: float) -> None:
    """Notes the memory of a server every so many seconds."""
    while not end.wait(every):
        levels.append(server.memory())
