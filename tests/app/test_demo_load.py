"""Many visitors at once, some with bad requests, against the demo in a separate process.

    VLCAP_LOAD_SECONDS=60 VLCAP_SOAK_SECONDS=600 python -m pytest -s tests/app/test_demo_load.py

is the long form: one minute with 30 clients, then ten minutes of good and bad requests. Default: 8 and 6 seconds.
"""

import contextlib
import os
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from tests.support.demo_captioner import photo, talking_captioner
from tests.support.demo_visitors import Server, Visit, served, visit

LOAD, SOAK = (float(os.environ.get(f"VLCAP_{name}_SECONDS", seconds)) for name, seconds in (("LOAD", 8), ("SOAK", 6)))
CLIENTS, STRANGERS = 30, 4
LEVEL = 50  # MB by which memory may grow after the warm-up, of about 950, whatever the length of the test

pytestmark = [pytest.mark.slow, pytest.mark.timeout(LOAD + SOAK + 300)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("load")


@pytest.fixture(scope="module")
def captioner(folder):
    captioner = talking_captioner()
    captioner.save_pretrained(folder / "model")
    return captioner


@pytest.fixture(scope="module")
def server(captioner, folder):
    with pytest.MonkeyPatch.context() as patch, served(folder / "model", folder) as server:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")  # the clients' analytics
        yield server


@pytest.fixture(scope="module")
def photos(captioner, folder) -> dict[tuple[Path, int], str]:
    """Captions by photo and budget."""
    paths = [folder / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        photo(number).save(path)
    return {(path, side): captioner.caption([path], budget=side)[0] for path in paths for side in (2, 3)}


def report(capfd, name: str, found: Visit, server: Server) -> None:
    with capfd.disabled():
        print(
            f"\n{name}: {dict(found.answers)}; {found.levels[0]:.0f} MB at first, {found.levels[-1]:.0f} at last, "
            f"{found.rise():+.1f} after the warm-up; {server.process.num_threads()} threads"
        )


def test_thirty_at_once(server, photos, capfd):
    wanted = list(photos)

    def ask(client: Client, number: int, turn: int) -> str:
        path, side = wanted[number % len(wanted)]
        text, *_ = client.predict(handle_file(path), side, api_name="/caption")
        assert text == photos[path, side]
        return "caption"

    found = visit(server, CLIENTS, LOAD, ask)
    report(capfd, f"{CLIENTS} clients for {LOAD:g} s", found, server)
    assert found.wrong == []
    assert set(found.answers) == {"caption", "queue full"}
    assert found.rise() < LEVEL


def strange_files(folder: Path) -> dict[Path, str]:
    """Files that are not usable photos, and the message for each."""
    whole, (cut, text, huge, archive) = (
        folder / "0.png",
        (folder / name for name in ("cut.png", "text.jpg", "huge.png", "archive.zip")),
    )
    cut.write_bytes(whole.read_bytes()[:300])
    text.write_text("This is no photo.")
    Image.new("1", (9000, 9000)).save(huge)
    with zipfile.ZipFile(archive, "w") as file:
        file.write(whole, "0.png")
    return {cut: "cut short", text: "not an image", huge: "too large", archive: "not an image"}


def test_good_and_bad_requests_for_long(server, photos, folder, capfd):
    bad, good = list(strange_files(folder).items()), list(photos.items())
    noise = np.random.default_rng(0)
    threads = server.process.num_threads()

    def ask(client: Client, number: int, turn: int) -> str:
        if turn % 4 == 0:  # a new photo
            path = folder / f"new{number}.jpg"
            Image.fromarray(noise.integers(0, 256, (600, 800, 3), dtype=np.uint8)).save(path)
            assert client.predict(handle_file(path), 3, api_name="/caption")[0]
            return "new photo"
        if turn % 4 == 1:
            (path, side), text = good[turn // 4 % len(good)]
            assert client.predict(handle_file(path), side, api_name="/caption")[0] == text
            return "known photo"
        (path, said), side = bad[turn // 4 % len(bad)], 3
        if turn % 4 == 3:
            path, said, side = good[0][0][0], "budget must be one of", 77
        with pytest.raises(AppError, match=said):
            client.predict(handle_file(path), side, api_name="/caption")
        return "refused"

    found = visit(server, STRANGERS, SOAK, ask)
    report(capfd, f"{STRANGERS} strangers for {SOAK:g} s", found, server)
    assert found.wrong == []
    assert {"new photo", "known photo", "refused"} <= set(found.answers)
    assert found.rise() < LEVEL
    assert server.process.num_threads() <= threads + 8


def test_ends_cleanly_and_leaves_nothing(server, captioner):
    """Must run last. The server ends while a client still sends requests."""
    client = Client(server.url, verbose=False)

    def ask_until_the_end() -> None:
        with contextlib.suppress(Exception):  # any error of a client whose server has gone
            while True:
                client.predict(handle_file(server.log.parent / "0.png"), 3, api_name="/caption")

    asking = threading.Thread(target=ask_until_the_end, daemon=True)
    asking.start()
    time.sleep(1)
    assert server.files()
    assert server.end() == 0
    asking.join(60)
    assert server.files() == []
    log = server.log.read_text()
    assert "Traceback" not in log and "error" not in log.lower(), log
