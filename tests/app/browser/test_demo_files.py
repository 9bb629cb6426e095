"""The demo in headless Chromium: every way to give photos, and every kind of file."""

import base64
import csv
import io
import json
import re
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.demo.example_photos import shown_examples
from tests.support.demo_captioner import photo
from tests.support.demo_tab import EXAMPLE, budgets_of, caption_of, no_caption, shot, slider_of, upload, words_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("how", ["drag", "clipboard", "webcam"])
def test_other_ways_in(open_page, expect, captioner, photo_path, how):
    """Ways to give a photo other than the file upload of the other tests."""
    tab = open_page(permissions=["camera", "clipboard-read", "clipboard-write"])
    data = base64.b64encode(photo_path.read_bytes()).decode()
    tab.evaluate(
        """data => {
        window.photo = new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], 'photo.png', {type: 'image/png'});
    }""",
        data,
    )
    if how == "drag":
        files = tab.evaluate_handle("() => { const d = new DataTransfer(); d.items.add(window.photo); return d; }")
        tab.dispatch_event("#photo button:has-text('Drop Image Here')", "drop", {"dataTransfer": files})
        expect(caption_of(tab)).to_have_text(captioner.caption([photo_path])[0])
    elif how == "clipboard":
        tab.evaluate("() => navigator.clipboard.write([new ClipboardItem({'image/png': window.photo})])")
        tab.get_by_label("Paste from clipboard").click()
        tab.wait_for_timeout(1500)  # Gradio sometimes loses what is pasted while it opens its pane: paste again
        if not tab.locator("#photo img").count():
            tab.get_by_text("Paste from Clipboard").click()
        expect(caption_of(tab)).to_have_text(captioner.caption([photo_path])[0])
    else:
        tab.get_by_label("Capture from camera").click()
        tab.get_by_text("Click to Access Webcam").click()
        tab.wait_for_function("() => document.querySelector('#photo video')?.videoWidth > 0")
        tab.get_by_role("button", name="capture photo").click()
        expect(caption_of(tab)).not_to_have_text("")  # the fake camera shows Chromium's test picture


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo().transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)


def cut(path: Path) -> None:
    file = io.BytesIO()
    photo().save(file, "JPEG")
    path.write_bytes(file.getvalue()[:900])


# For each file: how it is made, and the problem that the page reports; "" if it has a caption.
STRANGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "turned.jpg": (turned, ""),
    "cmyk.jpg": (lambda path: photo().convert("CMYK").save(path, quality=95), ""),
    "animated.gif": (lambda path: photo().save(path, save_all=True, append_images=[photo(1)]), ""),
    "16-bit.png": (lambda path: Image.fromarray(np.asarray(photo().convert("L")) * np.uint16(257)).save(path), ""),
    "scan.tiff": (lambda path: photo().save(path), ""),
    "scan.ppm": (lambda path: photo().save(path), ""),
    "scan.jp2": (lambda path: photo().save(path, quality_mode="rates", quality_layers=[0]), ""),
    "text.jpg": (lambda path: path.write_text("This is no photo."), "text.jpg: not an image"),
    "half.jpg": (cut, "half.jpg: cut short"),
    "empty.png": (lambda path: path.touch(), "empty.png: the file is empty"),
    "huge.png": (lambda path: Image.new("1", (9000, 9000)).save(path), "huge.png: too large, 9000 x 9000 pixels"),
    "thin.png": (lambda path: Image.new("1", (3000, 2)).save(path), "thin.png: not a usable shape"),
    "<img src=x>.jpg": (lambda path: path.write_text("This is no photo."), "img src=x"),
}


def test_every_file_gives_a_caption_or_a_reason(open_page, expect, captioner, tmp_path):
    """One file after another. Nothing of the previous file may stay on the page."""
    tab = open_page()
    caption, alert, picture = caption_of(tab), tab.get_by_role("alert"), tab.locator("#photo img")
    for name, (make, problem) in STRANGE.items():
        path = tmp_path / name
        make(path)
        if picture.count():
            tab.get_by_role("button", name="Remove Image").click()
        expect(no_caption(tab)).to_be_visible()
        expect(picture).to_have_count(0)
        upload(tab, path)
        if problem:
            expect(alert).to_contain_text(problem)
            expect(picture).to_have_count(0)  # no icon of a broken picture
            expect(no_caption(tab)).to_be_visible()
        else:
            expect(caption).to_have_text(captioner.caption([path])[0])
            expect(words_of(tab).first).to_be_visible()  # all has been answered: it may be looked at
            expect(alert).to_have_count(0)
            assert picture.evaluate("async image => { await image.decode(); return image.naturalWidth }") > 0
        expect(tab.get_by_text("Error", exact=True)).to_have_count(0)
        if name == "half.jpg":
            shot(tab, "bad_file")


@pytest.mark.parametrize("kind", ["tiff", "ppm", "jp2"])
def test_what_no_browser_shows_stays_usable(open_page, expect, captioner, tmp_path, kind):
    """D2: after its caption come its words, a map, another budget and all budgets, as for any other photo."""
    photo().save(tmp_path / f"scan.{kind}")
    few, many = (captioner.caption([tmp_path / f"scan.{kind}"], budget=budget)[0] for budget in (2, 3))
    tab = open_page()
    upload(tab, tmp_path / f"scan.{kind}")
    expect(caption_of(tab)).to_have_text(many)
    words_of(tab).first.click()
    expect(tab.locator("#word_map img")).to_be_visible()
    slider_of(tab).press("ArrowLeft")
    expect(caption_of(tab)).to_have_text(few)
    expect(words_of(tab).first).to_be_visible()
    expect(budgets_of(tab)).to_have_text([few, many])
    expect(tab.get_by_role("alert")).to_have_count(0)


def test_too_large_a_file_is_refused_at_once(open_page, expect, tmp_path):
    with open(tmp_path / "large.jpg", "wb") as file:
        file.truncate(21 * 1024**2)
    tab = open_page()
    upload(tab, tmp_path / "large.jpg")
    expect(tab.get_by_text("exceed the maximum allowed size of 20")).to_be_visible()


def test_many_photos(open_page, expect, captioner, photo_path, tmp_path):
    (tmp_path / "text.jpg").write_text("This is no photo.")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(photo_path, "<b>in</b>/photo.png")
        archive.writestr("../half.png", photo_path.read_bytes()[:100])
    tab = open_page()
    tab.get_by_role("tab", name="Many photos").click()
    tab.get_by_role("button", name="Caption all").click()
    expect(tab.get_by_text("Choose photos or a zip archive first")).to_be_visible()
    tab.set_input_files("#files input[type=file]", [photo_path, tmp_path / "text.jpg", tmp_path / "more.zip"])
    expect(tab.get_by_role("cell", name="more.zip")).to_be_visible()
    tab.get_by_role("button", name="Caption all").click()
    rows = tab.locator("table.results tbody tr")
    expect(rows).to_have_count(4)
    [text] = captioner.caption([photo_path])
    expect(rows.nth(0)).to_contain_text(text)
    expect(rows.nth(1)).to_contain_text("not an image")
    expect(rows.nth(2)).to_contain_text("<b>in</b>/photo.png")
    expect(rows.nth(3)).to_contain_text(re.compile("cut short|damaged"))
    expect(rows.locator("img")).to_have_count(2)
    expect(rows.nth(0).locator(".number")).to_have_text(re.compile(r"^\d+%$"))
    shot(tab, "batch", full_page=True)
    names = [row.split("\t")[1] for row in rows.all_inner_texts()]
    tab.locator("table.batch th button", has_text="Photo").click()
    expect(tab.get_by_role("columnheader", name="Photo")).to_have_attribute("aria-sort", "ascending")
    by_name = [row.split("\t")[1] for row in rows.all_inner_texts()]
    assert sorted(names) == sorted(by_name) and by_name != names
    tab.locator("table.batch th button", has_text="Photo").click()
    assert [row.split("\t")[1] for row in rows.all_inner_texts()] == by_name[::-1]

    def downloaded(name: str) -> Path:
        with tab.expect_download() as download:
            tab.get_by_text(f"Download {name}").click()
        assert download.value.suggested_filename.startswith("captions.")
        return download.value.path()

    with open(downloaded("CSV"), newline="", encoding="utf-8-sig") as file:
        found = list(csv.DictReader(file))
    assert [row["caption"] for row in found] == [text, "", text, ""]
    lines = [json.loads(line) for line in downloaded("JSON lines").read_text(encoding="utf-8").splitlines()]
    assert [line["caption"] for line in lines] == [text, None, text, None]
    with zipfile.ZipFile(downloaded("text files")) as texts:
        assert texts.namelist() == ["photo.txt", "<b>in</b>/photo.txt"]


def test_a_batch_fills_as_it_goes(open_page, expect, captioner, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(12):
            file = io.BytesIO()
            photo(number).save(file, "PNG")
            archive.writestr(f"{number}.png", file.getvalue())
    tab = open_page()
    tab.get_by_role("tab", name="Many photos").click()
    tab.set_input_files("#files input[type=file]", tmp_path / "many.zip")
    expect(tab.get_by_role("cell", name="many.zip")).to_be_visible()
    seen, text, written = threading.Event(), captioner.text, []

    def slow(ids):
        written.append(ids)
        if len(written) == 8:
            seen.wait(20)
        return text(ids)

    monkeypatch.setattr(captioner, "text", slow)
    tab.get_by_role("button", name="Caption all").click()
    expect(tab.get_by_text("7 captioned, 5 to come")).to_be_visible()
    rows = tab.locator("#report tbody tr")
    expect(rows).to_have_count(7)
    seen.set()
    expect(tab.get_by_text("12 captioned")).to_be_visible()
    expect(tab.get_by_role("button", name="Download CSV")).to_be_enabled()
    written.clear()
    seen.clear()
    tab.get_by_role("button", name="Caption all").click()
    expect(rows).to_have_count(7)  # the last batch's are gone
    expect(tab.get_by_role("button", name="Download CSV")).to_be_disabled()
    seen.set()
    expect(rows).to_have_count(12)


@pytest.mark.parametrize("then", ["example", "remove", "upload"])
def test_what_is_chosen_meanwhile_stays(open_page, expect, captioner, tmp_path, monkeypatch, then):
    """The answer to a photo that the browser cannot show comes late: another photo is there by then, or none."""
    photo(20 + len(then)).save(tmp_path / "scan.tiff")  # which no other test shows: captions are kept
    photo(1).resize((300, 200)).save(tmp_path / "other.png")
    [example] = [path for each, path in shown_examples() if each.name == EXAMPLE]
    chosen = {"example": example, "upload": tmp_path / "other.png"}.get(then)
    expected = chosen and captioner.caption([chosen])[0]
    text, writing, done = captioner.text, threading.Event(), threading.Event()

    def slow(ids):
        writing.set()
        done.wait(20)
        return text(ids)

    tab = open_page()
    with monkeypatch.context() as patch:
        patch.setattr(captioner, "text", slow)
        upload(tab, tmp_path / "scan.tiff")
        assert writing.wait(20)
        if then == "example":
            tab.get_by_role("button", name=EXAMPLE).click()
        else:
            tab.get_by_role("button", name="Remove Image").click()
        if then == "upload":
            upload(tab, chosen)
        tab.wait_for_timeout(500)  # the choice is made in the browser
        done.set()
    picture = tab.locator("#photo img")
    if chosen is None:
        expect(no_caption(tab)).to_be_visible()
        expect(picture).to_have_count(0)
        return
    expect(caption_of(tab)).to_have_text(expected)
    expect(words_of(tab).first).to_be_visible()
    with Image.open(chosen) as file:
        assert picture.evaluate("async image => { await image.decode(); return image.naturalWidth }") == file.width


def test_the_same_scan_again(open_page, expect, captioner, tmp_path):
    """The browser acts on changes, and the second answer is the first one's."""
    photo().save(tmp_path / "scan.tiff")
    tab, picture = (found := open_page()), found.locator("#photo img")
    for _ in range(2):
        upload(tab, tmp_path / "scan.tiff")
        expect(caption_of(tab)).to_have_text(captioner.caption([tmp_path / "scan.tiff"])[0])
        expect(words_of(tab).first).to_be_visible()
        assert picture.evaluate("async image => { await image.decode(); return image.naturalWidth }") > 0
        tab.get_by_role("button", name="Remove Image").click()
        expect(no_caption(tab)).to_be_visible()
