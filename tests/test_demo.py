"""The web demo, served with a tiny captioner of random weights: through its API, and in a real browser."""

import itertools
import os
import re
import shutil
import signal
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from app import demo
from app.demo import start
from encoders.cost import count_gflops
from vlcap.captioner import Captioner, build_model
from vlcap.encoder import Encoder
from vlcap.tokenizer import train_tokenizer

LAPTOP = {"width": 1366, "height": 768}


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    """Writes nonsense, but another one for every photo and budget."""
    words = (
        ["a dog", "two cats", "a small boy", "an old woman", "three birds", "a red car", "the brown horse"],
        ["runs", "sits", "jumps", "waits", "plays", "sleeps"],
        ["on the grass", "near a tree", "in the snow", "under the bridge", "beside the blue water"],
    )
    tokenizer = train_tokenizer([" ".join(parts) for parts in itertools.product(*words)], vocab_size=100)
    torch.manual_seed(2)
    encoder = Encoder.create("lookupvit_test_patch8_48")
    model = build_model(encoder, vocab_size=len(tokenizer), width=32, layers=1, heads=2, max_length=16)
    for parameter in model.decoder.parameters():
        if parameter.ndim > 1:  # new weights are so small that a decoder hardly notices what it reads
            parameter.data *= 30
    return Captioner(model, tokenizer, name="tiny_random")


@pytest.fixture(scope="module")
def hosts():
    """All that Python in this process has looked up or connected to while the module's tests ran."""
    asked = set()
    look_up, connect = socket.getaddrinfo, socket.socket.connect

    def recorded_look_up(host, *arguments, **keywords):
        asked.add(host)
        return look_up(host, *arguments, **keywords)

    def recorded_connect(self, address):
        if isinstance(address, tuple):
            asked.add(address[0])
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", recorded_look_up)
        patch.setattr(socket.socket, "connect", recorded_connect)
        yield asked


@pytest.fixture(scope="module")
def page(captioner, hosts):
    with pytest.MonkeyPatch.context() as patch:
        # As a user starts it; and what the user's environment says must not open it to others.
        patch.delenv("GRADIO_ANALYTICS_ENABLED", raising=False)
        patch.setenv("GRADIO_SHARE", "True")
        patch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
        page = start(captioner)
    yield page
    page.close(verbose=False)


@pytest.fixture(scope="module")
def client(page):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")  # the client's own; its argument doesn't stop them
        client = Client(page.local_url, verbose=False)
    yield client
    client.close()


def photo(seed: int = 0) -> Image.Image:
    """Blocks of random colours, upright."""
    pixels = torch.randint(0, 256, (6, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.numpy()).resize((160, 240), Image.Resampling.NEAREST)


def refused(client: Client, path: Path | str, budget: int = 3) -> str:
    with pytest.raises(AppError) as error:
        client.predict(handle_file(path), budget, api_name="/caption")
    return str(error.value)


def test_same_captions_as_the_captioner(client, captioner, tmp_path):
    photo().save(tmp_path / "photo.png")
    captions = set()
    for budget in captioner.budgets:
        text, tokens, gflops, ms = client.predict(handle_file(tmp_path / "photo.png"), budget, api_name="/caption")
        assert [text] == captioner.caption([tmp_path / "photo.png"], budget=budget)
        assert tokens == budget**2
        assert gflops == pytest.approx(count_gflops(captioner.model.encoder.model, budget, 48), rel=0.01)
        assert ms > 0
        captions.add(text)
    assert len(captions) == len(captioner.budgets) and "" not in captions


def save_turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo().transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("turned.jpg", save_turned),
        ("cmyk.jpg", lambda path: photo().convert("CMYK").save(path, quality=95)),
        ("animated.gif", lambda path: photo().save(path, save_all=True, append_images=[photo(1)])),
        ("16-bit.png", lambda path: Image.fromarray(np.asarray(photo().convert("L")) * np.uint16(257)).save(path)),
        ("transparent.png", lambda path: photo().convert("RGBA").save(path)),
    ],
)
def test_photos_as_on_the_command_line(client, captioner, tmp_path, name, save):
    save(tmp_path / name)
    text, *_ = client.predict(handle_file(tmp_path / name), 3, api_name="/caption")
    assert [text] == captioner.caption([tmp_path / name], budget=3)


def test_turned_photo_is_turned(client, tmp_path):
    save_turned(tmp_path / "turned.jpg")
    Image.open(tmp_path / "turned.jpg").save(tmp_path / "lying.jpg", exif=b"", quality="keep")
    captions = {client.predict(handle_file(path), 3, api_name="/caption")[0] for path in tmp_path.iterdir()}
    assert len(captions) == 2


def test_bad_files_are_named_and_explained(client, tmp_path):
    (tmp_path / "text.jpg").write_text("This is no photo.")
    photo().save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    (tmp_path / "empty.png").touch()
    assert refused(client, tmp_path / "text.jpg").startswith("text.jpg: not an image")
    assert refused(client, tmp_path / "half.jpg").startswith("half.jpg: cut short")
    assert refused(client, tmp_path / "huge.png").startswith("huge.png: too large, 9000 x 9000 pixels")
    assert refused(client, tmp_path / "empty.png") == "empty.png: the file is empty"


def test_file_name_is_not_html(client, tmp_path):
    (tmp_path / "<img src=x>.jpg").write_text("This is no photo.")
    assert "<" not in refused(client, tmp_path / "<img src=x>.jpg")


def test_only_the_models_budgets(client, tmp_path):
    photo().save(tmp_path / "photo.png")
    assert "[2, 3]" in refused(client, tmp_path / "photo.png", budget=4)
    described = client.view_api(return_format="dict")["named_endpoints"]["/caption"]["parameters"][1]["type"]
    assert described["type"] == "integer"


def test_large_files_and_addresses_are_refused(client, tmp_path):
    with open(tmp_path / "large.jpg", "wb") as file:
        file.truncate(21 * 1024**2)
    with pytest.raises(ValueError, match="exceeds the maximum file size"):
        client.predict(handle_file(tmp_path / "large.jpg"), 3, api_name="/caption")
    assert "not as an address" in refused(client, "http://example.com/photo.jpg")


def test_for_this_machine_only(page):
    assert page.local_url.startswith("http://127.0.0.1:")
    assert page.share is False and page.share_url is None
    socket.create_connection(("127.0.0.1", page.server_port), timeout=5).close()
    with pytest.raises(OSError):  # an address that a server on all interfaces would answer at
        socket.create_connection(("127.0.0.2", page.server_port), timeout=5)


def test_taken_port_is_an_error(page, captioner):
    with pytest.raises(OSError, match=str(page.server_port)):
        start(captioner, port=page.server_port)


def test_in_a_browser(page, captioner, tmp_path):
    name = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)
    if not name and "CI" not in os.environ:
        pytest.skip("no Chromium on this machine")
    assert name, "continuous integration has to have a Chromium"
    from playwright.sync_api import expect, sync_playwright

    photo().save(tmp_path / "photo.png")
    (tmp_path / "text.jpg").write_text("This is no photo.")
    few, many = (captioner.caption([tmp_path / "photo.png"], budget=budget)[0] for budget in (2, 3))
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which(name), args=flags)
        tab = browser.new_page(viewport=LAPTOP)
        requests, problems = [], []
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("pageerror", lambda error: problems.append(error))
        tab.goto(page.local_url)
        expect(tab.get_by_text("captions can be wrong")).to_be_visible()
        expect(tab.get_by_text("tiny_random")).to_be_visible()
        caption, gflops = tab.get_by_label("Caption"), tab.get_by_label("Encoder GFLOPs")
        tokens, ms = tab.get_by_label("Tokens", exact=True), tab.get_by_label("Milliseconds")
        expect(tokens).to_have_value("")

        tab.set_input_files("input[type=file]", tmp_path / "photo.png")
        expect(caption).to_have_value(many)
        expect(tokens).to_have_value("9")
        expect(ms).to_have_value(re.compile(r"^\d+$"))
        costs = [float(gflops.input_value())]

        tab.get_by_label("4", exact=True).check()
        expect(caption).to_have_value(few)
        expect(tokens).to_have_value("4")
        costs.append(float(gflops.input_value()))
        assert 0 < costs[1] < costs[0]
        tab.screenshot(path=tmp_path / "demo.png")
        assert Image.open(tmp_path / "demo.png").size == (LAPTOP["width"], LAPTOP["height"])
        assert tab.evaluate("document.documentElement.scrollHeight <= window.innerHeight"), "it should fit a laptop"

        tab.set_input_files("input[type=file]", tmp_path / "text.jpg")
        expect(tab.get_by_text("text.jpg: not an image")).to_be_visible()
        expect(caption).to_have_value("")
        browser.close()
    assert not problems
    assert [url for url in requests if not url.startswith((page.local_url, "data:", "blob:"))] == []


def test_ctrl_c_ends_it_cleanly(captioner, tmp_path, monkeypatch, capsys):
    photo().save(tmp_path / "photo.png")
    pages = []

    def start_and_interrupt(*arguments):
        pages.append(start(*arguments))
        monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        client = Client(pages[0].local_url, verbose=False)
        assert client.predict(handle_file(tmp_path / "photo.png"), 3, api_name="/caption")[0]
        assert all(map(os.path.exists, pages[0].upload_file_set)) and pages[0].upload_file_set
        uploaded.update(pages[0].upload_file_set)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        return pages[0]

    uploaded = set()
    monkeypatch.setattr(demo, "start", start_and_interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born deaf to it
    try:
        demo.serve(captioner)
    finally:
        signal.signal(signal.SIGINT, before)
    assert pages[0].local_url in capsys.readouterr().out
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", pages[0].server_port), timeout=5)
    assert not any(map(os.path.exists, uploaded))


def test_nobody_else_is_asked(client, hosts):
    """Last, after everything that the others did."""
    assert "127.0.0.1" in hosts
    assert hosts <= {"127.0.0.1", "127.0.0.2", "localhost"}
