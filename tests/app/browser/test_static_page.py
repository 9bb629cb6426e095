"""The static page of `vlcap export --web` in headless Chromium, with the bundled captioner.

Captions equal those of ONNX Runtime in Python, although everything is computed by the page: decoding, resizing, search.
"""

import os
import time

import pytest
from PIL import Image

from tests.support.demo_captioner import photo
from tests.support.demo_tab import LAPTOP, PHONE, shot
from tests.support.static_site import ISOLATION, photos_of_many_kinds, runtime, served
from vlcap.captioner import BUNDLED, Captioner

pytestmark = pytest.mark.slow

MOST = 45e6  # bytes before the first caption
PATIENCE = 120_000  # milliseconds: the machine may be busy


@pytest.fixture(scope="module")
def bundled():
    return Captioner.from_pretrained(engine="onnx")


@pytest.fixture(scope="module")
def site(bundled, tmp_path_factory):
    from app.demo.example_photos import free_examples
    from app.demo.judged import judged
    from vlcap.export.runtime import runtime_folder
    from vlcap.export.site import About, Example, write_site

    if runtime() is None and "CI" not in os.environ:
        pytest.skip("no onnxruntime-web on this machine: `make test` fetches it by npm")
    folder = tmp_path_factory.mktemp("site") / "page"
    examples = [Example(each.name, each.source, path) for each, path in free_examples()]
    about = About(judged=judged(bundled), card=BUNDLED / "README.md", examples=examples)
    write_site(folder, bundled.engine, runtime_folder(runtime()), bundled.budgets, about)
    return folder


@pytest.fixture(scope="module")
def server(site):
    with served(site) as server:
        yield server


@pytest.fixture(scope="module")
def shared(browser, server):
    """One tab for all tests that leave it as it was: loading the page takes the longest."""
    tab = browser.new_page(viewport=LAPTOP)
    tab.set_default_timeout(PATIENCE)
    problems, requests = [], []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda request: requests.append(request.url))
    start = time.perf_counter()
    tab.goto(server.url)
    ready(tab).wait_for(state="attached")
    tab.loading = time.perf_counter() - start, server.sent
    yield tab
    tab.close()
    assert not problems
    assert [url for url in requests if not url.startswith((server.url, f"blob:{server.url}", "data:"))] == []


def ready(tab):
    return tab.locator("html[data-ready], #loading.failed").first


def done(tab):
    """The table, when it has the captions of all budgets."""
    return tab.locator("#budgets[data-done=true]")


def give(tab, path):
    tab.set_input_files("#file", path)


def test_it_is_small_and_says_its_first_caption(shared, expect, request):
    """The time is told, not judged: it depends on what else the machine does."""
    start = time.perf_counter()
    shot(shared, "static_start", full_page=True)
    shared.get_by_role("button", name="Cat").click()
    expect(shared.locator("#said .word").first).to_be_visible(timeout=PATIENCE)
    seconds, sent = shared.loading
    seconds += time.perf_counter() - start
    line = f"static page: {sent / 1e6:.1f} MB, the first caption {seconds:.1f} s after the page was opened"
    request.config.pluginmanager.get_plugin("terminalreporter").write_line(f"\n{line}")
    assert sent < MOST


def test_twelve_photos_have_pythons_captions_at_every_budget(shared, bundled, real_data, tmp_path):
    paths = photos_of_many_kinds(tmp_path, real_data)
    assert len(paths) == 12
    expected = {budget: bundled.caption(paths, budget=budget) for budget in bundled.budgets}
    wrong = []
    for place, path in enumerate(paths):
        give(shared, path)
        done(shared).wait_for()
        found = shared.locator("#budgets td.text").all_inner_texts()
        meant = [expected[budget][place] for budget in sorted(bundled.budgets)]
        if found != meant:
            wrong.append((path.name, found, meant))
        assert shared.locator("#said").inner_text() == found[1], "the default budget's caption stands on top"
    assert not wrong
    shot(shared, "static_caption", full_page=True)


def test_another_budget_and_words_that_differ(shared, expect):
    """Chosen by the keyboard; the table has the words that another number of tokens did not say."""
    shared.get_by_role("button", name="Photographer").click()
    done(shared).wait_for()
    slider, rows = shared.get_by_role("slider"), shared.locator("#budgets tbody tr")
    expect(slider).to_have_attribute("aria-valuetext", "25 tokens of 196 patches")
    slider.press("ArrowLeft")
    expect(slider).to_have_attribute("aria-valuetext", "9 tokens of 196 patches")
    expect(shared.locator("#facts")).to_contain_text("9 tokens")
    expect(rows.nth(0)).to_have_attribute("aria-current", "true")
    expect(shared.locator("#said")).to_have_text(rows.nth(0).locator("td.text").inner_text())
    expect(shared.get_by_text("It may be wrong.")).to_be_visible()
    slider.press("ArrowRight")
    marks = shared.evaluate(
        """async () => (await import('./tokenizer.js')).markDifferent(
            [['a', 'cat', 'on', 'grass'], ['a', 'dog', 'on', 'grass'], ['a', 'cat', 'on', 'the', 'grass']])"""
    )
    assert marks == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1, 0]]


def cut_short(path):
    photo().save(path, quality=95)
    path.write_bytes(path.read_bytes()[:400])


BAD = {
    "text.jpg": (lambda path: path.write_text("This is no photo."), "text.jpg: not a photo that this browser can show"),
    "empty.png": (lambda path: path.touch(), "empty.png: the file is empty"),
    "huge.png": (lambda path: Image.new("1", (9000, 9000)).save(path), "huge.png: too large, 9000 x 9000 pixels"),
    "long.png": (lambda path: Image.new("1", (70000, 710)).save(path), "long.png: too long, 70000 x 710 pixels"),
    "thin.png": (lambda path: Image.new("1", (3000, 2)).save(path), "thin.png: not a usable shape"),
    "half.jpg": (cut_short, "half.jpg: "),
    "<img src=x>.jpg": (lambda path: path.write_text("This is no photo."), "<img src=x>.jpg: not a photo"),
}


def test_what_is_no_photo_is_refused_with_the_reason(shared, expect, tmp_path):
    alert = shared.get_by_role("alert")
    for name, (make, problem) in BAD.items():
        make(tmp_path / name)
        give(shared, tmp_path / name)
        expect(alert).to_contain_text(problem)
        expect(shared.locator("#said")).to_have_text("Choose a photo first.")
        expect(shared.locator("#photo")).to_be_hidden()
        expect(shared.locator("#budgets")).to_be_hidden()
    shot(shared, "static_problem")
    shared.get_by_role("button", name="Cat").click()  # and it goes on
    done(shared).wait_for()
    expect(alert).to_be_hidden()


def test_the_same_file_again(shared, expect, tmp_path):
    photo().save(tmp_path / "mine.png")
    give(shared, tmp_path / "mine.png")
    done(shared).wait_for()
    text = shared.locator("#said").inner_text()
    shared.get_by_role("button", name="Cat").click()
    expect(shared.locator("#said")).not_to_have_text(text)
    assert shared.evaluate("() => document.querySelector('#file').files.length") == 0  # else nothing would change
    done(shared).wait_for()
    give(shared, tmp_path / "mine.png")
    expect(shared.locator("#said")).to_have_text(text)


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_other_ways_in(shared, expect, how):
    """A photo that is dropped anywhere on the page, or pasted."""
    give_it = """async how => {
        const canvas = new OffscreenCanvas(64, 48);
        canvas.getContext('2d').fillRect(8, 8, 20, 30);
        const data = new DataTransfer();
        data.items.add(new File([await canvas.convertToBlob()], 'drawn.png', {type: 'image/png'}));
        const more = {bubbles: true, cancelable: true};
        document.querySelector('h1').dispatchEvent(how === 'drop'
            ? new DragEvent('drop', {dataTransfer: data, ...more})
            : new ClipboardEvent('paste', {clipboardData: data, ...more}));
    }"""
    shared.evaluate(give_it, how)
    expect(shared.locator("#photo")).to_have_js_property("naturalWidth", 64)
    done(shared).wait_for()


def test_by_keyboard_alone(shared, expect):
    shared.evaluate("document.activeElement.blur()")
    seen = []
    for _ in range(8):
        shared.keyboard.press("Tab")
        seen.append(shared.evaluate("document.activeElement.id || document.activeElement.innerText"))
    assert [each for each in seen if each in ("file", "Cat", "Photographer", "budget")] == [
        *("file", "Cat", "Photographer", "budget")
    ], seen
    shared.get_by_role("button", name="Photographer").focus()
    shared.keyboard.press("Enter")
    done(shared).wait_for()
    expect(shared.locator("#told")).to_have_text(shared.locator("#said").inner_text() + ". 25 tokens.")


def test_accessible(shared):
    """Those rules of WCAG that a program can check, in light and dark, on a laptop and a phone."""
    from axe_playwright_python.sync_playwright import Axe

    options, found = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}, []
    shared.get_by_role("button", name="Cat").click()
    done(shared).wait_for()
    for scheme in ("light", "dark"):
        for name, size in (("laptop", LAPTOP), ("phone", PHONE)):
            shared.emulate_media(color_scheme=scheme)
            shared.set_viewport_size(size)
            shot(shared, f"static_{name}_{scheme}", full_page=True)
            assert shared.evaluate("document.documentElement.scrollWidth") == size["width"], (
                "nothing to scroll sideways"
            )
            for violation in Axe().run(shared, options=options).response["violations"]:
                found += [f"{scheme}, {name}: {violation['id']}: {node['html'][:200]}" for node in violation["nodes"]]
    shared.emulate_media(color_scheme="light")
    shared.set_viewport_size(LAPTOP)
    assert found == []


def test_nothing_leaves_the_page(browser, server, site, tmp_path):
    """Neither the page nor its worker can reach another host, even if their programs tried."""
    tab = browser.new_page()
    with served(tmp_path) as other:
        tab.goto(server.url)
        ready(tab).wait_for(state="attached", timeout=PATIENCE)
        ask = "url => fetch(url, {mode: 'no-cors'}).then(() => 'reached', () => 'refused')"
        assert tab.evaluate(ask, other.url) == "refused"
        assert [worker.evaluate(ask, other.url) for worker in tab.workers] == ["refused"]
        assert tab.evaluate(ask, f"{server.url}site.json") == "reached"
        assert other.asked == []
    tab.close()


def test_threads_where_the_host_isolates_the_page(browser, site, bundled, expect):
    from app.demo.example_photos import free_examples

    [text] = bundled.caption([free_examples()[0][1]])
    with served(site, ISOLATION) as server:
        tab = browser.new_page()
        tab.goto(server.url)
        ready(tab).wait_for(state="attached", timeout=PATIENCE)
        assert tab.evaluate("crossOriginIsolated")
        tab.get_by_role("button", name="Cat").click()
        expect(tab.locator("#said")).to_have_text(text, timeout=PATIENCE)
        tab.close()
