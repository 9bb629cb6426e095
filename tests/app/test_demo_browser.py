"""The demo in headless Chromium, used as a person would. Screenshots are left in test-artifacts/."""

import base64
import csv
import io
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
from tests.support.demo_captioner import photo, talking_captioner
from tests.support.demo_visitors import REPOSITORY

pytestmark = pytest.mark.slow

LAPTOP, PHONE = {"width": 1280, "height": 768}, {"width": 390, "height": 844}
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
def captioner():
    return talking_captioner(trained_on="nothing at all")


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
    tabs, requests, problems = [], [], []

    def open_page(**options):
        tab = browser.new_page(**{"viewport": LAPTOP, **options})
        tab.set_default_timeout(20_000)
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("pageerror", lambda error: problems.append(error))
        tab.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        tab.goto(page.local_url)
        tab.get_by_role("button", name="Beach").wait_for()
        tabs.append(tab)
        return tab

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
    return tab.get_by_label("Caption", exact=True)


def slider_of(tab):
    return tab.get_by_role("slider", name="Tokens the decoder reads")


def test_photo_and_budget(open_page, expect, captioner, photo_path):
    few, many = (captioner.caption([photo_path], budget=budget)[0] for budget in (2, 3))
    tab = open_page()
    expect(tab.get_by_text("captions can be wrong")).to_be_visible()
    expect(tab.get_by_text("trained on nothing at all")).to_be_visible()
    caption, gflops, slider = caption_of(tab), tab.get_by_label("Encoder GFLOPs"), slider_of(tab)
    tokens, ms = tab.get_by_label("Tokens", exact=True), tab.get_by_label("Milliseconds")
    expect(tokens).to_have_value("")
    shot(tab, "start")

    upload(tab, photo_path)
    expect(caption).to_have_value(many)
    expect(tokens).to_have_value("9")
    expect(ms).to_have_value(re.compile(r"^\d+$"))
    costs = [float(gflops.input_value())]
    expect(slider).to_have_attribute("aria-valuetext", "9 tokens of 36 patches")
    slider.press("ArrowLeft")
    expect(caption).to_have_value(few)
    expect(tokens).to_have_value("4")
    expect(slider).to_be_focused()
    expect(slider).to_have_attribute("aria-valuetext", "4 tokens of 36 patches")
    costs.append(float(gflops.input_value()))
    assert 0 < costs[1] < costs[0]
    shot(tab, "caption")
    bottom = caption.bounding_box()
    assert bottom["y"] + bottom["height"] < LAPTOP["height"], "a caption has to be seen without scrolling"
    slider.click(position={"x": slider.bounding_box()["width"] - 5, "y": 12})
    expect(caption).to_have_value(many)

    tab.get_by_role("button", name="Advanced").click()
    for setting in ("Beams", "Longest caption, in pieces", "Sampling temperature", "Sampling top p"):
        expect(tab.get_by_label(f"number input for {setting}")).to_be_visible()
    length = tab.get_by_label("number input for Longest caption")
    length.fill("2")
    length.blur()
    tab.get_by_role("button", name="Caption again").click()
    expect(caption).to_have_value(captioner.caption([photo_path], budget=3, max_new_tokens=2)[0])


def test_a_caption_grows_as_it_is_decoded(open_page, expect, captioner, photo_path, monkeypatch):
    """The page shows the beginning of a caption before a slow decoder has finished."""
    whole = captioner.caption([photo_path])[0]
    seen, text = threading.Event(), captioner.text

    def slow(ids):
        if len(ids) == 6:
            seen.wait(20)
        return text(ids)

    monkeypatch.setattr(captioner, "text", slow)
    tab = open_page()
    upload(tab, photo_path)
    expect(caption_of(tab)).not_to_have_value("")
    part = caption_of(tab).input_value()
    seen.set()
    expect(caption_of(tab)).to_have_value(whole)
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
            tab.get_by_role("button", name="Beach").click()
            expect(tab.locator("#photo img")).to_be_visible()
            tab.wait_for_timeout(500)
        expect(tabs[2].get_by_text(re.compile("queue is full|busy", re.IGNORECASE))).to_be_visible()
        shot(tabs[2], "queue_full")
        go.set()
        for tab in tabs[:2]:
            expect(caption_of(tab)).not_to_have_value("")
        expect(caption_of(tabs[2])).to_have_value("")
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
        expect(caption_of(tab)).to_have_value(captioner.caption([photo_path])[0])
    elif how == "clipboard":
        tab.evaluate("() => navigator.clipboard.write([new ClipboardItem({'image/png': window.photo})])")
        tab.get_by_label("Paste from clipboard").click()
        tab.wait_for_timeout(1500)  # Gradio sometimes loses what is pasted while it opens its pane: paste again
        if not tab.locator("#photo img").count():
            tab.get_by_text("Paste from Clipboard").click()
        expect(caption_of(tab)).to_have_value(captioner.caption([photo_path])[0])
    else:
        tab.get_by_label("Capture from camera").click()
        tab.get_by_text("Click to Access Webcam").click()
        tab.wait_for_function("() => document.querySelector('#photo video')?.videoWidth > 0")
        tab.get_by_role("button", name="capture photo").click()
        expect(caption_of(tab)).not_to_have_value("")  # the fake camera shows Chromium's test picture


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
        expect(caption).to_have_value("")
        expect(picture).to_have_count(0)
        upload(tab, path)
        if problem:
            expect(alert).to_contain_text(problem)
            expect(picture).to_have_count(0)  # no icon of a broken picture
            expect(caption).to_have_value("")
        else:
            expect(caption).to_have_value(captioner.caption([path])[0])
            expect(tab.locator("#words label").nth(1)).to_be_visible()  # all has been answered: it may be looked at
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
    expect(caption_of(tab)).to_have_value(many)
    tab.locator("#words label").nth(1).click()
    expect(tab.locator("#word_map img")).to_be_visible()
    slider_of(tab).press("ArrowLeft")
    expect(caption_of(tab)).to_have_value(few)
    expect(tab.locator("#words label").nth(1)).to_be_visible()
    tab.get_by_role("button", name="Compare all budgets").click()
    expect(tab.locator("table.results.budgets td.text")).to_have_text([few, many])
    expect(tab.get_by_role("alert")).to_have_count(0)


def test_too_large_a_file_is_refused_at_once(open_page, expect, tmp_path):
    with open(tmp_path / "large.jpg", "wb") as file:
        file.truncate(21 * 1024**2)
    tab = open_page()
    upload(tab, tmp_path / "large.jpg")
    expect(tab.get_by_text("exceed the maximum allowed size of 20")).to_be_visible()


def test_all_budgets_side_by_side(open_page, expect, captioner):
    tab = open_page()
    tab.get_by_role("button", name="Compare all budgets").click()
    expect(tab.get_by_text("choose one first")).to_be_visible()
    tab.get_by_role("button", name="Red car").click()
    expect(caption_of(tab)).not_to_have_value("")
    tab.get_by_role("button", name="Compare all budgets").click()
    rows = tab.locator("table.budgets tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(1)).to_contain_text("9 tokens")
    expect(rows.nth(1)).to_contain_text(re.compile(r"GFLOPs.*\d+ ms"))
    widths = [rows.nth(row).locator(".bar").bounding_box()["width"] for row in range(2)]
    assert 0 < widths[0] < widths[1]
    shot(tab, "budgets", full_page=True)
    tab.get_by_role("button", name="Beach").click()
    expect(rows).to_have_count(0)  # they belonged to another photo


def test_what_it_looked_at(open_page, expect, captioner, photo_path):
    [text] = captioner.caption([photo_path])
    tab = open_page()
    upload(tab, photo_path)
    words = tab.locator("#words").get_by_role("radio")
    expect(words).to_have_count(1 + len(text.split()))
    expect(words.first).to_be_checked()
    picture = tab.locator("#word_map img")
    expect(picture).to_have_count(0)
    tab.locator("#words label").nth(1).click()
    expect(picture).to_have_attribute("alt", f"Where this word came from: {text.split()[0]}")
    pictures = [picture.get_attribute("src")]
    tab.keyboard.press("Tab")
    tab.keyboard.press("Space")
    expect(words.nth(2)).to_be_checked()
    expect(picture).not_to_have_attribute("src", pictures[0])
    shot(tab, "word")
    over, under = (tab.locator(f"{place} img").bounding_box() for place in ("#word_map", "#photo"))
    assert abs(over["y"] - under["y"]) < 5, "the map lies over the photo"
    words.first.focus()
    tab.keyboard.press("Space")
    expect(picture).to_have_count(0)  # the photo again
    tab.get_by_role("tab", name="What it looked at").click()
    expect(tab.get_by_text("Block 2")).to_be_visible()
    shot(tab, "looked_at", full_page=True)
    tab.locator("#words label").nth(1).click()
    expect(picture).to_be_visible()
    slider_of(tab).press("ArrowLeft")
    expect(picture).to_have_count(0)  # it belonged to another caption


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
    assert rows.locator("td").all_inner_texts()[0::2] == [text, text]
    expect(rows.nth(1)).to_contain_text("not an image")
    expect(rows.nth(2)).to_contain_text("<b>in</b>/photo.png")
    expect(rows.nth(3)).to_contain_text(re.compile("cut short|damaged"))
    expect(tab.locator(".gallery img")).to_have_count(2)
    shot(tab, "batch", full_page=True)
    with tab.expect_download() as download:
        tab.get_by_text("Download CSV").click()
    with open(download.value.path(), newline="", encoding="utf-8-sig") as file:
        found = list(csv.DictReader(file))
    assert [row["caption"] for row in found] == [text, "", text, ""]
    assert download.value.suggested_filename == "captions.csv"


def test_progress_of_a_batch_is_shown(open_page, expect, captioner, tmp_path, monkeypatch):
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
    expect(tab.get_by_text("7/12 photos")).to_be_visible()
    seen.set()
    expect(tab.get_by_text("12 captioned")).to_be_visible()


def test_another_model(open_page, expect, second, photo_path):
    tab = open_page()
    upload(tab, photo_path)
    tab.get_by_label("Model").click()
    tab.get_by_role("option", name="other_model").click()
    expect(caption_of(tab)).to_have_value(second.caption([photo_path])[0])
    expect(tab.get_by_text("does not say what it was trained on")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(open_page, expect, scheme):
    tab = open_page(viewport=PHONE, color_scheme=scheme, device_scale_factor=2, has_touch=True, is_mobile=True)
    tab.get_by_role("button", name="Beach").tap()
    expect(caption_of(tab)).not_to_have_value("")
    expect(caption_of(tab)).to_be_in_viewport(ratio=1)  # without scrolling to it
    shot(tab, f"phone_caption_{scheme}")
    tab.get_by_role("button", name="Compare all budgets").tap()
    expect(tab.locator("table.budgets tbody tr .bar")).to_have_count(2)
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

    tab_to("Skier")
    tab.keyboard.press("Enter")
    caption = caption_of(tab)
    expect(caption).not_to_have_value("")
    words = tab.locator("#words").get_by_role("radio")
    expect(words.first).to_be_checked()
    before = caption.input_value()
    tab_to("Tokens the decoder reads")
    tab.keyboard.press("ArrowLeft")
    expect(tab.get_by_label("Tokens", exact=True)).to_have_value("4")
    expect(caption).not_to_have_value(before)
    tab.wait_for_function("""() => document.querySelector('#caption textarea').value ==
        [...document.querySelectorAll('#words label')].slice(1).map(word => word.innerText.trim()).join(' ')""")
    tab_to("radio", "Shift+Tab")  # the caption's last word
    tab.keyboard.press("Space")
    expect(tab.locator("#word_map img")).to_be_visible()
    tab_to("Compare all budgets")
    tab.keyboard.press("Enter")
    expect(tab.locator("table.budgets tbody tr .bar")).to_have_count(2)


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
    tab.get_by_role("button", name="Skier").click()
    expect(tab.locator("#words").get_by_role("radio").first).to_be_checked()
    tab.get_by_role("button", name="Compare all budgets").click()
    expect(tab.locator("table.budgets tbody tr .bar")).to_have_count(2)
    tab.locator("#words label").nth(1).click()
    expect(tab.locator("#word_map img")).to_be_visible()
    shot(tab, f"all_{scheme}", full_page=True)
    judge("budgets")
    tab.get_by_role("tab", name="What it looked at").click()
    expect(tab.get_by_text("Block 2")).to_be_visible()
    judge("maps")
    tab.get_by_role("tab", name="Many photos").click()
    tab.set_input_files("#files input[type=file]", photo_path)
    tab.get_by_role("button", name="Caption all").click()
    expect(tab.get_by_text("1 captioned")).to_be_visible()
    judge("batch")
    assert found == []
    unnamed = re.compile(r"^$|^\w+\.\w+$")  # no name, or the key of a missing text
    assert [button for button in tab.get_by_role("button", name=unnamed).all() if button.is_visible()] == []
