"""The demo in headless Chromium, used as a person would: captions, budgets, words, settings."""

import re
import threading
from pathlib import Path

import pytest

from app.demo import start
from app.demo.answers import Author
from app.demo.example_photos import shown_examples
from tests.support.demo_captioner import photo
from tests.support.demo_tab import (
    EXAMPLE,
    LAPTOP,
    budgets_of,
    caption_of,
    no_caption,
    shot,
    slider_of,
    upload,
    words_of,
)

pytestmark = pytest.mark.slow


def test_an_example_is_its_file(open_page, expect, captioner):
    """Byte for byte, so that the page says what `vlcap caption` says of it."""
    [path] = [path for example, path in shown_examples() if example.name == EXAMPLE]
    tab = open_page()
    tab.get_by_role("button", name=EXAMPLE).click()
    expect(caption_of(tab)).to_have_text(captioner.caption([path])[0])
    shown = tab.locator("#photo img").first.get_attribute("src")
    assert tab.request.get(shown).body() == path.read_bytes()


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


def test_another_model(open_page, expect, second, photo_path):
    tab = open_page()
    upload(tab, photo_path)
    tab.get_by_label("Captioner").click()
    tab.get_by_role("option", name="other_model").click()
    expect(caption_of(tab)).to_have_text(second.caption([photo_path])[0])
    expect(tab.get_by_text("does not say what it was trained on")).to_be_visible()
