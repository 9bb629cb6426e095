"""The demo in headless Chromium, used as a person would. Screenshots are left in test-artifacts/."""

import base64
import csv
import io
import json
import os
import re
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.demo import start
from app.demo.answers import Author
from app.demo.example_photos import SHOWN
from tests.support.demo_captioner import photo, talking_captioner
from tests.support.demo_visitors import REPOSITORY
from vlcap.captioner import Captioner
from vlcap.engines.onnx import OnnxEngine
from vlcap.export.graphs import export_graphs

pytestmark = pytest.mark.slow

LAPTOP, PHONE = {"width": 1280, "height": 768}, {"width": 390, "height": 844}
EXAMPLE = SHOWN[0]
SCREENSHOTS = REPOSITORY / "test-artifacts"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    """Run by ONNX Runtime, as on a visitor's CPU. PyTorch runs the second one."""
    folder = tmp_path_factory.mktemp("graphs")
    export_graphs(talking_captioner(trained_on="nothing at all").engine, folder)
    return Captioner(OnnxEngine(folder, threads=1), name="tiny_random")


@pytest.fixture(scope="module")
def second():
    return talking_captioner(seed=5, name="other_model")


@pytest.fixture(scope="module")
def page(captioner, second):
    page = start([captioner, second])
    yield page
    page.close(verbose=False)


@pytest.fixture(scope="module")
def browser(request):
    name = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)
    if not name and "CI" not in os.environ:
        pytest.skip("no Chromium on this machine")
    assert name, "continuous integration has to have a Chromium"
    from playwright.sync_api import sync_playwright

    SCREENSHOTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which(name), args=FLAGS)
        yield browser
        browser.close()
    request.config.pluginmanager.get_plugin("terminalreporter").write_line(f"\nscreenshots: {SCREENSHOTS}")


@pytest.fixture
def open_page(browser, page):
    """Opens the page in new tabs. No tab may have an error or send a request to another host."""
    tabs, requests, problems, deleted = [], [], [], []

    def heard(message):
        """Notes an error in the console, other than that of a file that the test has deleted."""
        if message.type == "error" and not any(name in message.location["url"] for name in deleted):
            problems.append(message.text)

    def open_page(**options):
        tab = browser.new_page(**{"viewport": LAPTOP, **options})
        tab.set_default_timeout(20_000)
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("pageerror", lambda error: problems.append(error))
        tab.on("console", heard)
        tab.goto(page.local_url)
        tab.get_by_role("button", name=EXAMPLE).wait_for()
        tabs.append(tab)
        return tab

    open_page.deleted = deleted
    yield open_page
    for tab in tabs:
        tab.close()
    assert not problems
    assert [url for url in requests if not url.startswith((page.local_url, "data:", "blob:"))] == []


@pytest.fixture
def expect():
    from playwright.sync_api import expect

    expect.set_options(timeout=20_000)  # the machine may be busy
    return expect


@pytest.fixture
def photo_path(tmp_path):
    photo().save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def shot(tab, name, **options):
    tab.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled", **options)


def upload(tab, path):
    tab.set_input_files("#photo input[type=file]", path)


def caption_of(tab):
    return tab.locator("#caption .said:not(.none)")


def no_caption(tab):
    return tab.locator("#caption .said.none")


def words_of(tab):
    """The words of a finished caption: buttons, each with its map."""
    return tab.locator("#caption button.word")


def budgets_of(tab):
    """The captions of all budgets; one that is still to come is "..."."""
    return tab.locator("table.budgets td.text")


def slider_of(tab):
    return tab.get_by_role("slider", name="Tokens the decoder reads")


def test_photo_and_budget(open_page, expect, captioner, photo_path):
    few, many = (captioner.caption([photo_path], budget=budget)[0] for budget in (2, 3))
    tab = open_page()
    expect(tab.get_by_text("trained on nothing at all")).to_be_visible()
    caption, facts, slider = caption_of(tab), tab.locator("#caption .facts"), slider_of(tab)
    expect(no_caption(tab)).to_have_text("Choose a photo first.")
    shot(tab, "start")

    upload(tab, photo_path)
    expect(caption).to_have_text(many)
    expect(facts).to_have_text(re.compile(r"^9 tokens · [\d.e-]+ GFLOPs · \d+ ms$"))
    expect(tab.get_by_text("may be wrong")).to_be_visible()
    expect(slider).to_have_attribute("aria-valuetext", "9 tokens of 36 patches")
    expect(budgets_of(tab)).to_have_text([few, many])  # by themselves
    expect(tab.locator("table.budgets [aria-current]")).to_contain_text("9 tokens")
    slider.press("ArrowLeft")
    expect(caption).to_have_text(few)
    expect(facts).to_contain_text("4 tokens")
    expect(slider).to_be_focused()
    expect(slider).to_have_attribute("aria-valuetext", "4 tokens of 36 patches")
    expect(tab.locator("table.budgets [aria-current]")).to_contain_text("4 tokens")
    shot(tab, "caption")
    bottom = caption.bounding_box()
    assert bottom["y"] + bottom["height"] < LAPTOP["height"], "a caption has to be seen without scrolling"
    slider.click(position={"x": slider.bounding_box()["width"] - 5, "y": 12})
    expect(caption).to_have_text(many)


def test_settings_act_at_once_and_are_put_back(open_page, expect, captioner, photo_path):
    """A field that is emptied or out of range is put back with the reason; photo and caption stay."""
    [whole], [part] = (captioner.caption([photo_path], budget=3, max_new_tokens=most) for most in (15, 2))
    tab = open_page()
    upload(tab, photo_path)
    expect(caption_of(tab)).to_have_text(whole)
    tab.get_by_role("button", name="Advanced").click()
    length, said = tab.get_by_label("number input for Longest caption"), tab.locator("#put_back")
    length.fill("2")
    length.blur()
    expect(caption_of(tab)).to_have_text(part)
    for wrong, value, why in (("", "2", "it was empty"), ("99", "15", "15 is the most"), ("-3", "1", "1 is the least")):
        length.fill(wrong)
        length.blur()
        expect(said).to_have_text(f"Put back to {value}: {why}.")
        expect(length).to_have_value(value)
    length.fill("15")
    length.blur()
    expect(caption_of(tab)).to_have_text(whole)
    expect(said).to_have_text("")
    expect(tab.locator("#photo img")).to_be_visible()

    for name in ("Temperature", "Top p"):
        expect(tab.get_by_label(f"number input for {name}")).to_have_count(0)
    tab.get_by_role("checkbox").check()
    heat = tab.get_by_label("number input for Temperature")
    expect(heat).to_be_visible()
    expect(tab.get_by_label("number input for Top p")).to_be_visible()
    heat.fill("2")  # at which the same caption would not come again
    heat.blur()
    expect(caption_of(tab)).not_to_have_text(whole)
    shot(tab, "settings", full_page=True)
    before = caption_of(tab).inner_text()
    tab.get_by_role("button", name="Another caption").click()
    expect(caption_of(tab)).not_to_have_text(before)


def test_reload_and_back_keep_photo_and_caption(open_page, expect, captioner, photo_path, page):
    """Per tab, with the settings; and nothing is left behind where the photo's file has been deleted."""
    few = captioner.caption([photo_path], budget=2)[0]
    tab = open_page()
    upload(tab, photo_path)
    expect(budgets_of(tab).first).to_have_text(few)
    slider_of(tab).press("ArrowLeft")
    expect(caption_of(tab)).to_have_text(few)
    tab.wait_for_function("() => JSON.parse(sessionStorage.getItem('vlcap'))?.[1].side === 2")

    def is_done() -> None:
        expect(tab.locator("table.budgets caption")).to_contain_text("encoder")

    def is_back() -> None:
        expect(caption_of(tab)).to_have_text(few)
        expect(tab.locator("#photo img")).to_be_visible()
        expect(slider_of(tab)).to_have_attribute("aria-valuetext", "4 tokens of 36 patches")
        is_done()

    is_done()
    tab.reload()
    is_back()
    tab.goto("about:blank")
    tab.go_back()
    is_back()
    other = open_page()
    expect(no_caption(other)).to_be_visible()  # another tab is another visit
    kept = tab.evaluate("() => JSON.parse(sessionStorage.getItem('vlcap'))[0].path")
    assert tab.evaluate("() => sessionStorage.getItem('vlcap').length") < 3000, "names, not the photo"
    content = Path(kept).read_bytes()
    Path(kept).unlink()  # as the sweep does after an hour
    try:
        open_page.deleted.append(kept)
        tab.reload()
        expect(no_caption(tab)).to_be_visible()
        expect(tab.locator("#photo img")).to_have_count(0)
    finally:
        Path(kept).write_bytes(content)


def test_many_tabs(browser, expect, page, captioner, photo_path):
    """A browser opens six connections to a host at most: no tab may hold one while it has nothing to do."""
    context = browser.new_context(viewport=LAPTOP)
    tabs = [context.new_page() for _ in range(8)]
    for tab in tabs:
        tab.set_default_timeout(60_000)
        tab.goto(page.local_url)
        tab.get_by_role("button", name=EXAMPLE).wait_for()
    upload(tabs[-1], photo_path)
    expect(caption_of(tabs[-1])).to_have_text(captioner.caption([photo_path])[0])
    context.close()


def test_a_caption_grows_as_it_is_decoded(open_page, expect, captioner, photo_path, monkeypatch):
    """The page shows the beginning of a caption before a slow decoder has finished."""
    photo(31).save(photo_path)  # the captions of the other tests' photo are kept
    whole = captioner.caption([photo_path])[0]
    seen, text = threading.Event(), captioner.text

    def slow(ids):
        if len(ids) == 6:
            seen.wait(20)
        return text(ids)

    monkeypatch.setattr(captioner, "text", slow)
    tab = open_page()
    upload(tab, photo_path)
    expect(caption_of(tab)).not_to_have_text("")
    part = caption_of(tab).inner_text()
    seen.set()
    expect(caption_of(tab)).to_have_text(whole)
    assert part != whole and len(part) < len(whole)


def test_a_full_queue_is_said(browser, expect, captioner, monkeypatch):
    """One request is served, one waits, and the third gets "Queue is full". The waiting one is served in the end."""
    go, text = threading.Event(), captioner.text
    monkeypatch.setattr("app.demo.page.MAX_WAITING", 1)
    monkeypatch.setattr(captioner, "text", lambda ids: text(ids) if go.wait(60) else "")
    page = start(captioner)
    try:
        tabs = [browser.new_page(viewport=LAPTOP) for _ in range(3)]
        for tab in tabs:
            tab.goto(page.local_url)
            tab.get_by_role("button", name=EXAMPLE).click()
            expect(tab.locator("#photo img")).to_be_visible()
            tab.wait_for_timeout(500)
        expect(tabs[2].get_by_text(re.compile("queue is full|busy", re.IGNORECASE))).to_be_visible()
        shot(tabs[2], "queue_full")
        go.set()
        for tab in tabs[:2]:
            expect(caption_of(tab)).not_to_have_text("")
        expect(no_caption(tabs[2])).to_be_visible()
        for tab in tabs:
            tab.close()
    finally:
        go.set()
        page.close(verbose=False)


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


def test_all_budgets_come_by_themselves(open_page, expect, captioner, photo_path, tmp_path, monkeypatch):
    """Smallest first, while others are still computed; the words that differ are marked; another photo's are gone."""
    few, many = (captioner.caption([photo_path], budget=budget)[0] for budget in (2, 3))
    go, times = threading.Event(), Author.times
    monkeypatch.setattr(Author, "times", lambda *given: times(*given) if go.wait(20) else {})
    tab = open_page()
    rows, remark = tab.locator("table.budgets tbody tr"), tab.locator("table.budgets caption")
    expect(rows).to_have_count(0)
    upload(tab, photo_path)
    expect(budgets_of(tab)).to_have_text([few, many])
    expect(remark).not_to_contain_text("encoder")
    go.set()
    expect(remark).to_contain_text("encoder")  # its times, or that they do not differ
    expect(rows.nth(1)).to_contain_text("9 tokens")
    expect(rows.nth(1)).to_contain_text("GFLOPs")
    assert budgets_of(tab).locator("mark").all_inner_texts()
    widths = [rows.nth(row).locator(".bar").bounding_box()["width"] for row in range(2)]
    assert 0 < widths[0] < widths[1]
    shot(tab, "budgets", full_page=True)
    (tmp_path / "text.jpg").write_text("This is no photo.")
    tab.get_by_role("button", name="Remove Image").click()
    expect(rows).to_have_count(0)  # they belonged to another photo


def test_where_words_came_from(open_page, expect, captioner, photo_path):
    """The caption's own words: pointed at, clicked, or reached with arrow keys. The map covers the photo."""
    [text] = captioner.caption([photo_path])
    tab = open_page()
    upload(tab, photo_path)
    words, map_, picture = words_of(tab), tab.locator("#word_map .map"), tab.locator("#word_map img")
    expect(words).to_have_text(text.split())
    assert tab.get_by_text(text.split()[0], exact=True).count() == text.split().count(text.split()[0]), "it stands once"
    expect(map_).to_be_hidden()
    words.nth(1).hover()
    expect(picture).to_have_attribute("alt", f"Where this word came from: {text.split()[1]}")
    expect(map_).to_contain_text(re.compile(r"\d+% sure"))
    tab.mouse.move(0, 0)
    expect(map_).to_be_hidden()
    words.first.click()
    tab.mouse.move(0, 0)
    expect(words.first).to_have_attribute("aria-pressed", "true")
    pictures = [picture.get_attribute("src")]
    over = map_.bounding_box()
    shown = tab.locator("#photo img").evaluate(
        """image => { const box = image.getBoundingClientRect(), size = [image.naturalWidth, image.naturalHeight],
        scale = Math.min(box.width / size[0], box.height / size[1]); return size.map(side => side * scale) }"""
    )
    assert [over["width"], over["height"]] == pytest.approx(shown, abs=2), "the map covers the photo at full size"
    shot(tab, "word")
    tab.keyboard.press("ArrowRight")
    expect(words.nth(1)).to_be_focused()
    expect(picture).not_to_have_attribute("src", pictures[0])
    tab.keyboard.press("End")
    expect(words.last).to_be_focused()
    tab.keyboard.press("Space")
    expect(words.last).to_have_attribute("aria-pressed", "true")
    tab.keyboard.press("Space")
    tab.locator("h1").click()
    expect(map_).to_be_hidden()  # the photo again

    block = tab.get_by_role("button", name="Block 2")
    small = block.locator("img").bounding_box()
    block.click()
    expect(picture).to_have_attribute("alt", "What block 2 gathered from")
    assert map_.bounding_box()["width"] > small["width"], "a map opens larger than its thumbnail"
    shot(tab, "block", full_page=True)
    slider_of(tab).press("ArrowLeft")
    expect(map_).to_be_hidden()  # it belonged to another caption


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


def test_another_model(open_page, expect, second, photo_path):
    tab = open_page()
    upload(tab, photo_path)
    tab.get_by_label("Captioner").click()
    tab.get_by_role("option", name="other_model").click()
    expect(caption_of(tab)).to_have_text(second.caption([photo_path])[0])
    expect(tab.get_by_text("does not say what it was trained on")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(open_page, expect, scheme):
    tab = open_page(viewport=PHONE, color_scheme=scheme, device_scale_factor=2, has_touch=True, is_mobile=True)
    tab.get_by_role("button", name=EXAMPLE).tap()
    expect(caption_of(tab)).not_to_have_text("")
    expect(caption_of(tab)).to_be_in_viewport(ratio=1)  # without scrolling to it
    shot(tab, f"phone_caption_{scheme}")
    expect(tab.locator("table.budgets caption")).to_contain_text("encoder")
    expect(tab.locator("body")).to_have_class(re.compile("dark") if scheme == "dark" else re.compile("^(?!.*dark)"))
    assert tab.evaluate("document.documentElement.scrollWidth") == PHONE["width"], "nothing to scroll sideways"
    shot(tab, f"phone_{scheme}", full_page=True)


def test_by_keyboard_alone(open_page, expect):
    tab = open_page()

    def tab_to(what: str, key: str = "Tab") -> None:
        reached = []
        for _ in range(40):
            tab.keyboard.press(key)
            reached.append(
                tab.evaluate("""(({innerText, ariaLabel, labels, type, name, id}) =>
                [innerText, ariaLabel, labels?.[0]?.innerText, type, id].join(' '))(document.activeElement)""")
            )
            if what in reached[-1]:
                return
        raise AssertionError(f"{what} is not among {reached}")

    tab_to(EXAMPLE)
    tab.keyboard.press("Enter")
    caption = caption_of(tab)
    expect(words_of(tab).first).to_be_visible()
    before = caption.inner_text()
    tab_to(before.split()[0])
    expect(tab.locator("#word_map img")).to_be_visible()
    tab.keyboard.press("ArrowRight")
    expect(words_of(tab).nth(1)).to_be_focused()
    tab_to("Tokens the decoder reads")
    tab.keyboard.press("ArrowLeft")
    expect(tab.locator("#caption .facts")).to_contain_text("4 tokens")
    expect(tab.locator("table.budgets caption")).to_contain_text("encoder")
    tab_to("Block 1")
    tab.keyboard.press("Enter")
    expect(tab.locator("#word_map img")).to_have_attribute("alt", "What block 1 gathered from")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(open_page, expect, photo_path, scheme):
    """Those rules of WCAG that a program can check: names of controls, contrast, roles."""
    from axe_playwright_python.sync_playwright import Axe

    tab = open_page(color_scheme=scheme)
    found = []

    def judge(state: str) -> None:
        rules = {"nested-interactive": {"enabled": False}}  # Gradio's upload icon holds its file input; it works
        options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "rules": rules}
        for violation in Axe().run(tab, options=options).response["violations"]:
            found.extend(f"{state}: {violation['id']}: {node['html'][:200]}" for node in violation["nodes"])

    judge("start")
    tab.get_by_role("button", name=EXAMPLE).click()
    expect(tab.locator("table.budgets caption")).to_contain_text("encoder")
    words_of(tab).first.click()
    expect(tab.locator("#word_map img")).to_be_visible()
    shot(tab, f"all_{scheme}", full_page=True)
    judge("budgets")
    tab.get_by_role("button", name="Block 2").click()
    judge("maps")
    tab.get_by_role("button", name="Advanced").click()
    tab.get_by_role("checkbox").check()
    expect(tab.get_by_label("number input for Top p")).to_be_visible()
    expect(tab.locator("table.budgets caption")).to_contain_text("encoder")
    judge("settings")
    tab.get_by_role("tab", name="Many photos").click()
    tab.set_input_files("#files input[type=file]", photo_path)
    tab.get_by_role("button", name="Caption all").click()
    expect(tab.get_by_text("1 captioned")).to_be_visible()
    judge("batch")
    assert found == []
    unnamed = re.compile(r"^$|^\w+\.\w+$")  # no name, or the key of a missing text
    assert [button for button in tab.get_by_role("button", name=unnamed).all() if button.is_visible()] == []
