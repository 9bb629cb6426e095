"""The demo in a real headless Chromium, driven as a person would; what it looked like lies in $VLCAP_SCREENSHOTS."""

import csv
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from demo_captioner import photo, talking_captioner

from app.demo import start

LAPTOP, PHONE = {"width": 1366, "height": 768}, {"width": 390, "height": 844}


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
def browser():
    name = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)
    if not name and "CI" not in os.environ:
        pytest.skip("no Chromium on this machine")
    assert name, "continuous integration has to have a Chromium"
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which(name), args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, page):
    """Opens the page in tabs of its own kind; none of them may fail, or ask anyone else."""
    tabs, requests, problems = [], [], []

    def open_page(**options):
        tab = browser.new_page(**{"viewport": LAPTOP, **options})
        tab.set_default_timeout(20_000)
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("pageerror", lambda error: problems.append(error))
        tab.goto(page.local_url)
        tabs.append(tab)
        return tab

    yield open_page
    for tab in tabs:
        tab.close()
    assert not problems
    assert [url for url in requests if not url.startswith((page.local_url, "data:", "blob:"))] == []


@pytest.fixture
def shot(tmp_path):
    folder = Path(os.environ.get("VLCAP_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return lambda tab, name, **options: tab.screenshot(path=folder / f"{name}.png", animations="disabled", **options)


@pytest.fixture
def expect():
    from playwright.sync_api import expect

    expect.set_options(timeout=20_000)  # the machine may be busy
    return expect


@pytest.fixture
def photo_path(tmp_path):
    photo().save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def upload(tab, path):
    tab.set_input_files("input[type=file] >> nth=0", path)


def test_photo_and_budget(open_page, expect, shot, captioner, photo_path):
    few, many = (captioner.caption([photo_path], budget=budget)[0] for budget in (2, 3))
    tab = open_page()
    expect(tab.get_by_text("captions can be wrong")).to_be_visible()
    expect(tab.get_by_text("trained on nothing at all")).to_be_visible()
    caption, gflops = tab.get_by_label("Caption", exact=True), tab.get_by_label("Encoder GFLOPs")
    tokens, ms = tab.get_by_label("Tokens", exact=True), tab.get_by_label("Milliseconds")
    expect(tokens).to_have_value("")
    shot(tab, "start")

    upload(tab, photo_path)
    expect(caption).to_have_value(many)
    expect(tokens).to_have_value("9")
    expect(ms).to_have_value(re.compile(r"^\d+$"))
    costs = [float(gflops.input_value())]
    tab.get_by_label("4", exact=True).check()
    expect(caption).to_have_value(few)
    expect(tokens).to_have_value("4")
    costs.append(float(gflops.input_value()))
    assert 0 < costs[1] < costs[0]
    shot(tab, "caption")
    bottom = caption.bounding_box()
    assert bottom["y"] + bottom["height"] < LAPTOP["height"], "a caption has to be seen without scrolling"

    tab.get_by_role("button", name="Advanced").click()
    for setting in ("Beams", "Longest caption, in pieces", "Temperature of sampling", "Top p of sampling"):
        expect(tab.get_by_label(f"number input for {setting}")).to_be_visible()
    length = tab.get_by_label("number input for Longest caption")
    length.fill("2")
    length.blur()
    tab.get_by_role("button", name="Caption again").click()
    expect(caption).to_have_value(captioner.caption([photo_path], budget=2, max_new_tokens=2)[0])


def test_bad_file_is_explained(open_page, expect, shot, photo_path, tmp_path):
    tab = open_page()
    caption = tab.get_by_label("Caption", exact=True)
    upload(tab, photo_path)
    expect(caption).not_to_have_value("")
    (tmp_path / "text.jpg").write_text("This is no photo.")
    tab.get_by_role("button", name="Remove Image").click()
    expect(caption).to_have_value("")
    upload(tab, tmp_path / "text.jpg")
    expect(tab.get_by_text("text.jpg: not an image")).to_be_visible()
    expect(caption).to_have_value("")
    shot(tab, "bad_file")


def test_all_budgets_side_by_side(open_page, expect, shot, captioner):
    tab = open_page()
    tab.get_by_role("button", name="Red car").click()
    expect(tab.get_by_label("Caption", exact=True)).not_to_have_value("")
    tab.get_by_role("button", name="Compare all budgets").click()
    rows = tab.locator("table.budgets tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(1)).to_contain_text("9 tokens")
    expect(rows.nth(1)).to_contain_text(re.compile(r"GFLOPs.*\d+ ms"))
    widths = [rows.nth(row).locator(".bar").bounding_box()["width"] for row in range(2)]
    assert 0 < widths[0] < widths[1]
    shot(tab, "budgets", full_page=True)


def test_what_it_looked_at(open_page, expect, shot, captioner, photo_path):
    [text] = captioner.caption([photo_path])
    tab = open_page()
    upload(tab, photo_path)
    tab.get_by_role("tab", name="What it looked at").click()
    words = tab.locator("fieldset", has_text="Words of the caption").get_by_role("radio")
    expect(words).to_have_count(len(text.split()))
    picture = tab.locator("#word_map img")
    expect(tab.get_by_text("Block 2")).to_be_visible()
    expect(words.first).to_be_checked()
    pictures = [picture.get_attribute("src")]
    words.nth(1).click()
    expect(picture).not_to_have_attribute("src", pictures[0])
    pictures.append(picture.get_attribute("src"))
    tab.keyboard.press("Tab")
    tab.keyboard.press("Space")
    expect(words.nth(2)).to_be_checked()
    expect(picture).not_to_have_attribute("src", pictures[1])
    shot(tab, "looked_at", full_page=True)


def test_many_photos(open_page, expect, shot, captioner, photo_path, tmp_path):
    (tmp_path / "text.jpg").write_text("This is no photo.")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(photo_path, "<b>in</b>/photo.png")
        archive.writestr("../half.png", photo_path.read_bytes()[:100])
    tab = open_page()
    tab.get_by_role("tab", name="Many photos").click()
    expect(tab.get_by_role("button", name="Caption all")).to_be_visible()  # a tab is made when it is first opened
    tab.set_input_files("input[type=file] >> nth=-1", [photo_path, tmp_path / "text.jpg", tmp_path / "more.zip"])
    expect(tab.get_by_role("cell", name="more.zip")).to_be_visible()
    tab.get_by_role("button", name="Caption all").click()
    rows = tab.locator("table.results tbody tr")
    expect(rows).to_have_count(4)
    [text] = captioner.caption([photo_path])
    assert rows.locator("td").all_inner_texts()[0::2] == [text, text]
    expect(rows.nth(1)).to_contain_text("not an image")
    expect(rows.nth(2)).to_contain_text("<b>in</b>/photo.png")
    expect(rows.nth(3)).to_contain_text(re.compile("cut short|damaged"))
    shot(tab, "batch", full_page=True)
    with tab.expect_download() as download:
        tab.get_by_text("Download CSV").click()
    with open(download.value.path(), newline="", encoding="utf-8-sig") as file:
        found = list(csv.DictReader(file))
    assert [row["caption"] for row in found] == [text, "", text, ""]
    assert download.value.suggested_filename == "captions.csv"


def test_another_model(open_page, expect, second, photo_path):
    tab = open_page()
    upload(tab, photo_path)
    tab.get_by_label("Model").click()
    tab.get_by_role("option", name="other_model").click()
    expect(tab.get_by_label("Caption", exact=True)).to_have_value(second.caption([photo_path])[0])
    expect(tab.get_by_text("does not say what it was trained on")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(open_page, expect, shot, scheme):
    tab = open_page(viewport=PHONE, color_scheme=scheme, device_scale_factor=2, has_touch=True, is_mobile=True)
    tab.get_by_role("button", name="Beach").tap()
    expect(tab.get_by_label("Caption", exact=True)).not_to_have_value("")
    tab.get_by_role("button", name="Compare all budgets").tap()
    expect(tab.locator("table.budgets tbody tr .bar")).to_have_count(2)
    expect(tab.locator("body")).to_have_class(re.compile("dark") if scheme == "dark" else re.compile("^(?!.*dark)"))
    assert tab.evaluate("document.documentElement.scrollWidth") == PHONE["width"], "nothing to scroll sideways"
    shot(tab, f"phone_{scheme}", full_page=True)
    if scheme == "dark":
        tab.set_viewport_size(LAPTOP)
        shot(tab, "dark", full_page=True)


def test_by_keyboard_alone(open_page, expect, photo_path):
    tab = open_page()
    expect(tab.get_by_role("button", name="Skier")).to_be_visible()
    reached = []
    for _ in range(40):
        tab.keyboard.press("Tab")
        name = tab.evaluate("document.activeElement.innerText || document.activeElement.getAttribute('aria-label')")
        reached.append(name)
        if name and "Skier" in name:
            break
    assert "Skier" in str(reached[-1]), reached
    tab.keyboard.press("Enter")
    caption = tab.get_by_label("Caption", exact=True)
    expect(caption).not_to_have_value("")
    before = caption.input_value()
    for _ in range(10):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.type") == "radio":
            break
    tab.keyboard.press("Space")
    expect(tab.get_by_label("Tokens", exact=True)).to_have_value("4")
    expect(caption).not_to_have_value(before)


def test_everything_has_a_name(open_page):
    """What a screen reader would call each control; none may be nameless."""
    tab = open_page()
    nameless = tab.evaluate("""() => [...document.querySelectorAll('button, input, textarea, select, img')]
        .filter(e => e.offsetParent !== null && !e.closest('footer'))
        .filter(e => !(e.innerText || e.getAttribute('aria-label') || e.getAttribute('title') || e.alt
            || (e.labels && [...e.labels].some(l => l.innerText.trim())) || e.tagName === 'IMG' && e.closest('button')))
        .map(e => e.outerHTML.slice(0, 200))""")
    assert nameless == []
