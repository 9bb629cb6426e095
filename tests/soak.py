"""The demo under good and bad requests for as long as one likes, in a process of its own.

    python -m tests.soak --minutes 10

Strangers send photos whose captions are known, photos never seen before, and what has to be refused: cut ones, texts,
bombs, archives, budgets that there aren't. They also ask past the queue, send large pictures in small files, and break
uploads off. At the end: is memory level, are threads and temporary files gone, are the answers still right, was no wait
too long, is the log clean? The exit status tells.
"""

import argparse
import http.client
import json
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from tests.support.demo_captioner import photo, talking_captioner
from tests.support.demo_visitors import Server, served, visit

LEVEL = 50  # MB that the memory may rise by, after a quarter of the time, between large pictures
WAIT = 60  # seconds that an answer may take, with the large pictures of the others before it
THREADS = 8  # that may be more at the end than at the beginning: pools fill up


def strange_files(folder: Path) -> dict[Path, str]:
    """Files that are no usable photo, and what has to be said of each."""
    cut, text, huge, archive, thin = (
        folder / f"{name}" for name in ("cut.png", "text.jpg", "huge.png", "archive.zip", "thin.png")
    )
    cut.write_bytes((folder / "0.png").read_bytes()[:300])
    text.write_text("This is no photo.")
    Image.new("1", (9000, 9000)).save(huge)
    Image.new("L", (1, 20_000)).save(thin)
    with zipfile.ZipFile(archive, "w") as file:
        file.write(folder / "0.png", "0.png")
    return {cut: "cut short", text: "not an image", huge: "too large", archive: "not an image", thin: "usable shape"}


def refused(client: Client, path: Path, side: int, said: str) -> str:
    try:
        client.predict(handle_file(path), side, api_name="/caption")
    except AppError as error:
        if said in str(error):
            return "refused"
        raise
    raise AssertionError(f"{path.name} with a budget of {side} was answered")


def past_the_queue(url: str) -> str:
    """A plain POST, which must not run at once."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=WAIT)
    body = json.dumps({"data": [None, 3, None]})
    connection.request("POST", "/gradio_api/run/caption", body, {"Content-Type": "application/json"})
    status = connection.getresponse().status
    connection.close()
    assert status == 404, f"a request past the queue got {status}"
    return "past the queue: 404"


def broken_off(url: str) -> str:
    """An upload of 19 MB of which a part arrives."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=WAIT)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(19 * 1024**2))
    connection.endheaders()
    head = '--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    connection.send(head.encode() + bytes(500_000))
    connection.close()
    return "broken off"


def asker(folder: Path, known: dict[tuple[Path, int], str], waits: list[float]) -> Callable[[Client, int, int], str]:
    """What strangers do, by turns: a function for `visit`. It adds the seconds that each answer took to `waits`."""
    good, bad = list(known.items()), list(strange_files(folder).items())
    noise = np.random.default_rng(0)
    Image.new("L", (8900, 8900), 99).save(folder / "large.png")

    def answer_of(client: Client, number: int, turn: int) -> str:
        match turn % 7:
            case 0:
                path = folder / f"new{number}.jpg"
                Image.fromarray(noise.integers(0, 256, (600, 800, 3), dtype=np.uint8)).save(path)
                assert client.predict(handle_file(path), 3, api_name="/caption")[0]
                return "new photo"
            case 1:
                (path, side), text = good[turn // 7 % len(good)]
                answer = client.predict(handle_file(path), side, api_name="/caption")[0]
                assert answer == text, f"{answer!r} for {text!r}"
                return "known photo"
            case 2:
                path, said = bad[turn // 7 % len(bad)]
                return refused(client, path, 3, said)
            case 3:
                return refused(client, good[0][0][0], 77, "budget must be one of")
            case 4:
                return past_the_queue(client.src)
            case 5:
                return broken_off(client.src)
            case _:
                assert client.predict(handle_file(folder / "large.png"), 3, api_name="/caption")[0]
                return "large picture"

    def ask(client: Client, number: int, turn: int) -> str:
        start = time.monotonic()
        kind = answer_of(client, number, turn)
        waits.append(time.monotonic() - start)
        return kind

    return ask


def soak(folder: Path, minutes: float, strangers: int) -> list[str]:
    """What is wrong after so many minutes; prints what it sees."""
    captioner = talking_captioner()
    captioner.save_pretrained(folder / "model")
    known: dict[tuple[Path, int], str] = {}
    for number in range(4):
        path = folder / f"{number}.png"
        photo(number).save(path)
        known |= {(path, side): captioner.caption([path], budget=side)[0] for side in (2, 3)}
    waits = [0.0]
    ask = asker(folder, known, waits)

    with served(folder / "model", folder) as server:
        threads = server.process.num_threads()
        found = visit(server, strangers, minutes * 60, ask)
        client = Client(server.url, verbose=False)
        wrong = found.wrong + [
            f"at the end {path.name} at {side} is something else"
            for (path, side), text in known.items()
            if client.predict(handle_file(path), side, api_name="/caption")[0] != text
        ]
        client.close()
        print(f"{minutes:g} minutes, {strangers} strangers: {dict(found.answers)}")
        print(f"wait: {np.median(waits):.1f} s in the median, {max(waits):.1f} s at most")
        levels, now = found.levels, server.process.num_threads()
        print(
            f"memory: {levels[0]:.0f} MB at first, {levels[-1]:.0f} at last, {max(levels):.0f} at most, "
            f"{found.rise(min):+.1f} after the warm-up, while no large picture is decoded"
        )
        print(f"threads: {threads} at first, {now} at last; temporary files: {len(server.files())}")
        if found.rise(min) > LEVEL:
            wrong.append(f"the memory rises by {found.rise(min):.0f} MB")
        if max(waits) > WAIT:
            wrong.append(f"an answer took {max(waits):.0f} s")
        if now > threads + THREADS:
            wrong.append(f"{now} threads, {threads} at first")
        return wrong + at_the_end(server)


def at_the_end(server: Server) -> list[str]:
    status, log = server.end(), server.log.read_text()
    print(f"ended with {status}; temporary files left: {len(server.files())}")
    wrong = [] if status == 0 else [f"exit status {status}"]
    wrong += [f"{path} is left" for path in server.files()]
    return wrong + ([f"the log: {log[-2000:]}"] if "Traceback" in log else [])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="The demo under requests for long.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--strangers", type=int, default=4)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        wrong = soak(Path(folder), wanted.minutes, wanted.strangers)
    for problem in wrong[:20]:
        print(f"  wrong: {problem}")
    print("nothing wrong" if not wrong else f"{len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
