"""Makes docs/demo.png: the page with the bundled captioner, your photo, and one word of its caption selected.

    python scripts/screenshot.py PHOTO [NUMBER]

NUMBER is the place of the word in the caption, from 1.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from app.demo import start
from vlcap import Captioner

OUT = Path(__file__).parents[1] / "docs" / "demo.png"


def main(photo: str, word: str = "2") -> None:
    page = start(Captioner.from_pretrained())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1120, "height": 1000})
        tab.set_default_timeout(120_000)  # the machine may be busy
        tab.goto(page.local_url)
        tab.set_input_files("#photo input[type=file]", photo)
        tab.locator("table.budgets caption", has_text="encoder").wait_for()
        tab.locator("#caption button.word").nth(int(word) - 1).click()
        tab.locator("#word_map .map").wait_for()
        tab.wait_for_timeout(1000)  # wait for what fades in or out
        tab.screenshot(path=OUT, animations="disabled", full_page=True)
        browser.close()
    page.close(verbose=False)
    print(f"{OUT}: {OUT.stat().st_size // 1024} KB")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or not Path(sys.argv[1]).is_file() or not all(map(str.isdigit, sys.argv[2:])):
        sys.exit("usage: python scripts/screenshot.py PHOTO [WORD]    (the number of the word that is clicked, from 1)")
    main(*sys.argv[1:])
