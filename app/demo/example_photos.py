"""Example photos: real ones, free of rights (examples/LICENSE.md) or loaded from this project's dependencies.

tests/app/test_examples.py asserts that the bundled captioner names what is on each of them.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Example:
    """A photo that the page offers.

    Attributes:
        name: What it is called on the page.
        package: The package that it comes with.
        file: Its path in the package.
        source: Who made it or where it is from, and its license.
    """

    name: str
    package: str
    file: str
    source: str

    def path(self) -> Path | None:
        """Path of the file; None if the installed version of the package lacks it."""
        found = find_spec(self.package)
        path = Path(found.origin).parent / self.file if found and found.origin else None
        return path if path and path.is_file() else None


CC0 = "CC0, from scikit-image"
GRADIO = "comes with Gradio, Apache-2.0"
EXAMPLES = (
    Example("Cat", "app", "demo/examples/cat.jpg", f"by Stéfan van der Walt, {CC0}"),
    Example("Photographer", "app", "demo/examples/photographer.jpg", f"by Lav Varshney, {CC0}"),
    Example("Tower", "gradio", "media_assets/images/tower.jpg", GRADIO),
)


def free_examples() -> list[tuple[Example, Path]]:
    """Those that are free of all rights and come with vlcap, with their files: anybody may put them on a page."""
    return [(each, path) for each in EXAMPLES if each.package == "app" and (path := each.path())]


def shown_examples() -> list[tuple[Example, Path]]:
    """The photos that the page offers, with their files."""
    return [(each, path) for each in EXAMPLES if (path := each.path())]
