"""What the browser tests of the demo look at: the parts of a tab."""

from app.demo.example_photos import EXAMPLES
from tests.support.demo_visitors import REPOSITORY

LAPTOP, PHONE = {"width": 1280, "height": 768}, {"width": 390, "height": 844}
EXAMPLE = EXAMPLES[0].name
SCREENSHOTS = REPOSITORY / "test-artifacts"


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
