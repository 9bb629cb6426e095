"""`vlcap serve` under many programs at once, in a process of its own, against one request at a time.

    python -m tests.serve_load --seconds 60

Programs without a library send the same photos again and again, each as soon as it has its answer. Is every request
answered rightly or told to come later (429), is memory level, and how many times as many photos are captioned as by one
program alone? The exit status tells. Half of the time goes to one program, before and after the crowd's.
"""

import argparse
import io
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests.support.demo_captioner import photo
from tests.support.demo_visitors import REPOSITORY, Server, Visit
from tests.support.serve_clients import CHAT, Asker, ask, body, crowd, serving

TIMES = 2.0  # as many photos as by one program, at least, with the bundled captioner
LEVEL = 50  # MB that the memory may rise by, after a quarter of the time
SIDE = 640  # pixels of the long side of a photo


@dataclass
class Load:
    """How it went.

    Attributes:
        crowd: The crowd's visit.
        alone: Photos per second of one program.
        together: Photos per second of the crowd.
        batch: Photos of a batch meanwhile, mean.
    """

    crowd: Visit
    alone: float
    together: float
    batch: float

    @property
    def times(self) -> float:
        return self.together / self.alone


def photos() -> list[bytes]:
    """The demo's examples and some blocks of color, as JPEG files."""
    found = [Image.open(path) for path in sorted((REPOSITORY / "app" / "demo" / "examples").glob("*.jpg"))]
    files = []
    for each in [*found, *(photo(number).resize((427, 640)) for number in range(4))]:
        each = each.convert("RGB")
        each.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        each.save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def captions_alone(server: Server, contents: list[bytes]) -> dict[bytes, str]:
    """Captions by request, one after the other."""
    asker = Asker(server.url)
    found = {}
    for content in contents:
        reply = asker.ask("POST", CHAT, content, Content_Type="application/json")
        assert reply.status == 200, reply.text
        found[content] = reply.json["choices"][0]["message"]["content"]
    asker.connection.close()
    return found


def batches(server: Server) -> tuple[float, float]:
    """Batches and their photos so far, by the server's own metrics."""
    text = ask(server.url, "GET", "/metrics").text
    count, photos = (re.search(rf"^vlcap_batch_photos_{name} (\S+)$", text, re.MULTILINE) for name in ("count", "sum"))
    assert count and photos
    return float(count[1]), float(photos[1])


def load(server: Server, clients: int, seconds: float, contents: list[bytes]) -> Load:
    """Asks for so many seconds by a crowd, and half as long by one program: half before, half after."""
    known = captions_alone(server, contents)
    before = crowd(server, 1, seconds / 4, known)
    count, sum_of = batches(server)
    many = crowd(server, clients, seconds, known)
    count, sum_of = (now - then for now, then in zip(batches(server), (count, sum_of), strict=True))
    after = crowd(server, 1, seconds / 4, known)
    many.wrong += before.wrong + after.wrong
    alone = (before.answers["answered"] + after.answers["answered"]) / (seconds / 2)
    return Load(many, alone, many.answers["answered"] / seconds, sum_of / max(1, count))


def report(found: Load, clients: int, seconds: float) -> None:
    visit, levels = found.crowd, found.crowd.levels
    print(
        f"{clients} programs for {seconds:g} s: {visit.answers['answered']} answered, {visit.answers['429']} told to "
        f"come later (429), {len(visit.wrong)} lost or wrong"
    )
    print(
        f"photos/s: {found.alone:.1f} one at a time, {found.together:.1f} together, {found.times:.2f} times as many, "
        f"{found.batch:.1f} in a batch"
    )
    print(
        f"memory: {levels[0]:.0f} MB at first, {levels[-1]:.0f} at last, {max(levels):.0f} at most, "
        f"{visit.rise():+.1f} after the warm-up"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.serve_load", description="The server under load.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=30)
    parser.add_argument("--model", type=Path, help="captioner folder; default: the bundled one")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="serve-load-") as folder, serving(wanted.model, Path(folder)) as server:
        found = load(server, wanted.clients, wanted.seconds, [body(each) for each in photos()])
        report(found, wanted.clients, wanted.seconds)
        status, log = server.end(), server.log.read_text()
    wrong = list(found.crowd.wrong)
    if found.times < TIMES:
        wrong.append(f"only {found.times:.2f} times as many photos as one at a time")
    if found.crowd.rise() > LEVEL:
        wrong.append(f"the memory rises by {found.crowd.rise():.0f} MB")
    if status or "Traceback" in log:
        wrong.append(f"exit status {status}: {log[-1000:]}")
    for problem in wrong[:20]:
        print(f"  wrong: {problem}")
    print("nothing wrong" if not wrong else f"{len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
