"""What the tests in headless Chromium share. Screenshots are left in test-artifacts/."""

import os
import shutil

import pytest
from filelock import FileLock

from app.demo import start
from tests.support.demo_captioner import photo, talking_captioner
from tests.support.demo_tab import EXAMPLE, LAPTOP, SCREENSHOTS
from vlcap.captioner import Captioner
from vlcap.engines.onnx import SETTINGS, OnnxEngine
from vlcap.export.graphs import export_graphs

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@pytest.fixture(scope="session")
def captioner(shared_folder):
    """Run by ONNX Runtime, as on a visitor's CPU. PyTorch runs the second one."""
    folder = shared_folder / "talking"
    with FileLock(shared_folder / "talking.lock"):
        if not (folder / SETTINGS).is_file():  # the last file of an export
            export_graphs(talking_captioner(trained_on="nothing at all").engine, folder)
    return Captioner(OnnxEngine(folder, threads=1), name="tiny_random")


@pytest.fixture(scope="session")
def second():
    return talking_captioner(seed=5, name="other_model")


@pytest.fixture(scope="session")
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
