"""The web demo through its API, with a tiny captioner of random weights. browser/ uses a browser."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from gradio.route_utils import delete_files_created_by_app
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from app.address import AddressError
from app.demo import server, start
from app.demo.answers import Author, by_name
from app.demo.parts import Photo
from app.photos import SIDE, open_photo, pixels_to_decode
from encoders.cost import count_gflops
from tests.support import drawings
from tests.support.demo_captioner import photo, talking_captioner
from tests.support.demo_visitors import REPOSITORY
from vlcap.captioner import Captioner
from vlcap.model.build import build_model
from vlcap.model.encoder import Encoder
from vlcap.model.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return talking_captioner()


@pytest.fixture(scope="module")
def hosts():
    """All hosts that Python in this process looked up or connected to while the module's tests ran."""
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
        # As a user starts it. Variables of the user's environment must not expose it to others.
        patch.delenv("GRADIO_ANALYTICS_ENABLED", raising=False)
        patch.setenv("GRADIO_SHARE", "True")
        patch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
        page = start(captioner)
    yield page
    page.close(verbose=False)


@pytest.fixture(scope="module")
def client(page):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")  # the client's analytics, which its argument doesn't stop
        client = Client(page.local_url, verbose=False)
    yield client
    client.close()


def refused(client: Client, path: Path | str, budget: int = 3) -> str:
    with pytest.raises(AppError) as error:
        client.predict(handle_file(path), budget, api_name="/caption")
    return str(error.value)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.parametrize("temperature", [2, 1, 0.8])
def test_any_temperature_samples(captioner, temperature):
    """D3: a slider's whole number arrives as an int, and the same caption has to come from 2 and 2.0."""
    [author] = by_name([captioner]).values()
    settings = author.settings(4, 12, True, temperature, 1)
    assert [type(settings[name]) for name in ("temperature", "top_p")] == [float, float]
    assert author.caption(photo(), 3, settings).text
    *_, last = author.stream(photo(), 3, settings)
    assert last.text


@pytest.mark.slow
def test_large_photos_are_made_smaller(tmp_path):
    """D4: 20 megapixels in a small file. What is shown and kept is small; its cost is known before it is decoded."""
    Image.new("RGB", (5000, 4000), "red").save(tmp_path / "large.tif", compression="tiff_lzw")
    photo().save(tmp_path / "small.tif")
    photo().save(tmp_path / "small.jpg")
    assert open_photo(tmp_path / "large.tif", "large.tif").size == (SIDE, SIDE * 4 // 5)
    assert open_photo(tmp_path / "small.tif", "small.tif").size == photo().size
    sizes = [pixels_to_decode(tmp_path / name) for name in ("large.tif", "small.tif", "small.jpg", "none.jpg")]
    assert sizes == [20_000_000, 160 * 240, 160 * 240 // 8, 0]
    with gr.Blocks(analytics_enabled=False):
        field = Photo()
    with Image.open(field.replacement(photo())["path"]) as shown:
        assert shown.convert("RGB").tobytes() == photo().tobytes()  # the next caption is the same


def test_file_name_is_not_html(client, tmp_path):
    (tmp_path / "<img src=x>.jpg").write_text("This is no photo.")
    assert "<" not in refused(client, tmp_path / "<img src=x>.jpg")


def test_only_the_models_budgets(client, tmp_path):
    photo().save(tmp_path / "photo.png")
    assert "[2, 3]" in refused(client, tmp_path / "photo.png", budget=4)
    parameters = client.view_api(return_format="dict")["named_endpoints"]["/caption"]["parameters"]
    assert [parameter["parameter_name"] for parameter in parameters] == ["photo", "budget", "model"]
    assert parameters[1]["type"]["type"] == "integer"


def of_docs(language: str, page) -> str:
    """The example for programs in docs/demo.md, for the address of this page."""
    [block] = re.findall(rf"```{language}\n(.*?)```", (REPOSITORY / "docs" / "demo.md").read_text(), re.DOTALL)[-1:]
    return block.replace("http://127.0.0.1:7860", page.local_url.rstrip("/"))


@pytest.mark.slow
def test_the_documented_ways_work(page, captioner, tmp_path, monkeypatch):
    """The lines of docs/demo.md as they stand there, through the queue."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.chdir(tmp_path)
    photo().save("photo.jpg")
    [wanted] = captioner.caption(["photo.jpg"], budget=3)
    found: dict = {}
    exec(of_docs("python", page), found)
    found["client"].close()
    assert (found["caption"], found["tokens"]) == (wanted, 9)
    if shutil.which("curl"):
        said = subprocess.run(["bash", "-c", of_docs("bash", page)], capture_output=True, text=True, timeout=60).stdout
        assert "event: complete" in said and json.dumps(wanted) in said


def test_large_files_and_addresses_are_refused(client, tmp_path):
    with open(tmp_path / "large.jpg", "wb") as file:
        file.truncate(21 * 1024**2)
    with pytest.raises(ValueError, match="exceeds the maximum file size"):
        client.predict(handle_file(tmp_path / "large.jpg"), 3, api_name="/caption")
    assert "not as a URL" in refused(client, "http://example.com/photo.jpg")


def test_for_this_machine_only(page):
    assert page.local_url.startswith("http://127.0.0.1:")
    assert page.share is False and page.share_url is None
    socket.create_connection(("127.0.0.1", page.server_port), timeout=5).close()
    with pytest.raises(OSError):  # a server on all interfaces would answer here
        socket.create_connection(("127.0.0.2", page.server_port), timeout=5)


def test_taken_port_is_an_error(page, captioner):
    with pytest.raises(AddressError, match=f"^port {page.server_port} is taken: choose another with --port$"):
        start(captioner, port=page.server_port)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "usual"),  # a background job starts with signals ignored, so the usual handler is set first
    [(signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)],
)
def test_ends_cleanly(captioner, tmp_path, monkeypatch, capsys, end, usual):
    photo().save(tmp_path / "photo.png")
    pages = []

    def start_and_interrupt(*arguments):
        pages.append(start(*arguments))
        monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        client = Client(pages[0].local_url, verbose=False)
        assert client.predict(handle_file(tmp_path / "photo.png"), 3, api_name="/caption")[0]
        assert all(map(os.path.exists, pages[0].upload_file_set)) and pages[0].upload_file_set
        uploaded.update(pages[0].upload_file_set)
        threading.Timer(0.5, os.kill, (os.getpid(), end)).start()
        return pages[0]

    uploaded = set()
    monkeypatch.setattr(server, "start", start_and_interrupt)
    before = signal.signal(end, usual)
    try:
        server.serve(captioner)
        assert signal.getsignal(end) == usual
    finally:
        signal.signal(end, before)
    assert pages[0].local_url in capsys.readouterr().out
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", pages[0].server_port), timeout=5)
    assert not any(map(os.path.exists, uploaded))
    assert "GRADIO_TEMP_DIR" not in os.environ


@pytest.mark.slow
def test_the_command(captioner_folder, tmp_path):
    """Two models and a host; SIGTERM ends it and leaves no file behind."""
    other = shutil.copytree(captioner_folder, tmp_path / "other")
    (other / "README.md").write_text("---\ndatasets: drawn shapes\n---\n")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    photo().save(tmp_path / "photo.png")
    command = [sys.executable, "-m", "app.cli", "demo", "--model", captioner_folder, "--model", other]
    environment = os.environ | {"TMPDIR": str(temporary), "GRADIO_ANALYTICS_ENABLED": "False"}
    process = subprocess.Popen(
        [*map(str, command), "--host", "127.0.0.2"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = process.stdout.readline()
        client = Client(re.search(r"http://[^ ]+", said)[0], verbose=False)
        texts = {
            client.predict(handle_file(tmp_path / "photo.png"), 3, name, api_name="/caption")[0]
            for name in ("small", "other")
        }
        assert len(texts) == 1  # the same weights
        client.close()
        assert list(temporary.iterdir())
        process.terminate()
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "warning" not in said and "Traceback" not in said  # this address too is this machine's alone
    assert [path for path in temporary.rglob("*") if path.is_file()] == []


def test_share_is_asked_for_and_warned_of(captioner, monkeypatch, capsys):
    asked = []

    def refuse(*arguments):
        asked.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "start", refuse)
    server.serve(captioner, share=True)
    assert asked[0][:4] == (captioner, None, "127.0.0.1", True)
    assert "--share" in capsys.readouterr().err
    server.serve(captioner)
    assert asked[1][3] is False and "warning" not in capsys.readouterr().err
    server.serve(captioner, host="0.0.0.0")
    assert "warning: --host 0.0.0.0: everyone who can reach this machine" in capsys.readouterr().err


def test_visitors_files_are_deleted_and_the_pages_own_kept(client, page, tmp_path):
    photo(7).save(tmp_path / "photo.png")
    client.predict(handle_file(tmp_path / "photo.png"), 3, api_name="/caption")
    uploaded = set(page.upload_file_set)
    assert any(map(os.path.exists, uploaded))
    delete_files_created_by_app(page, age=0)  # Gradio calls this every quarter of an hour
    assert not any(map(os.path.exists, uploaded))
    icons = [block.icon["path"] for block in page.blocks.values() if getattr(block, "icon", None)]
    assert icons and all(map(os.path.exists, icons))


@pytest.mark.slow
def test_a_model_without_maps_or_choice(tmp_path):
    """A plain ViT has one budget and does not gather."""
    words = train_tokenizer(drawings.captions(60), vocab_size=60)
    encoder = Encoder.create("vit_tiny_patch16_224")
    captioner = Captioner.from_model(
        build_model(encoder, vocab_size=60, width=32, layers=1, heads=2, max_length=8), words
    )
    author = Author(captioner)
    assert author.budgets == [14] and author.patches == 14
    assert "no maps" in author.description
    photo().save(tmp_path / "photo.png")
    page = start(captioner)
    client = Client(page.local_url, verbose=False)
    text, tokens, *_ = client.predict(handle_file(tmp_path / "photo.png"), api_name="/caption")
    client.close()
    page.close(verbose=False)
    assert tokens == 196 and text == captioner.caption([tmp_path / "photo.png"])[0]


def test_nobody_else_is_asked(client, hosts):
    """Must run last: it checks what all other tests of the module did."""
    assert "127.0.0.1" in hosts
    assert hosts <= {"127.0.0.1", "127.0.0.2", "localhost"}
