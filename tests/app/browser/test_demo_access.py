"""The demo in headless Chromium: on a phone, by keyboard alone, and by the rules of WCAG."""

import re

import pytest

from tests.support.demo_tab import EXAMPLE, PHONE, caption_of, shot, words_of

pytestmark = pytest.mark.slow


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
        # A button that has just become enabled fades in: half way there, its contrast is nobody's.
        tab.evaluate("""Promise.allSettled(document.getAnimations().filter(each => each instanceof CSSTransition)
            .map(each => each.finished))""")
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
    expect(tab.get_by_role("button", name="Download CSV")).to_be_enabled()
    judge("batch")
    assert found == []
    unnamed = re.compile(r"^$|^\w+\.\w+$")  # no name, or the key of a missing text
    assert [button for button in tab.get_by_role("button", name=unnamed).all() if button.is_visible()] == []
