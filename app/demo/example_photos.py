"""Example photos: real ones, free of rights (examples/LICENSE.md) or loaded from this project's dependencies.

The page offers those in `SHOWN`. tests/app/test_examples.py asserts that the bundled captioner names what is on each of
them, and that it fails on all other candidates, so that a better captioner brings a longer list.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Example:
    """A photo that the page may offer.

    Attributes:
        name: What it is called on the page.
        package: The package that it comes with.
        file: Its path in the package.
        source: Who made it or where it is from, and its license.
        words: A right caption has at least one word of each group.
        wrong: Words that a right caption has none of.
    """

    name: str
    package: str
    file: str
    source: str
    words: tuple[frozenset[str], ...]
    wrong: frozenset[str] = frozenset()

    def path(self) -> Path | None:
        """Path of the file; None if the installed version of the package lacks it."""
        found = find_spec(self.package)
        path = Path(found.origin).parent / self.file if found and found.origin else None
        return path if path and path.is_file() else None

    def is_right(self, caption: str) -> bool:
        """Whether a caption names the main thing on it, and nothing that is not there."""
        said = set(caption.replace(".", " ").replace(",", " ").split())
        return all(said & group for group in self.words) and not said & self.wrong


GRADIO = "comes with Gradio, Apache-2.0"
ANIMALS = frozenset(
    {
        "cat",
        "dog",
        "bird",
        "giraffe",
        "zebra",
        "horse",
        "cow",
        "bear",
        "elephant",
        "sheep",
        "lion",
        "cheetah",
        "leopard",
    }
)


def _animal(*right: str) -> dict:
    return {"words": (frozenset(right),), "wrong": ANIMALS - {*right} | {"snow"}}


CC0 = "CC0, from scikit-image"
CANDIDATES = (
    Example("Cat", "app", "demo/examples/cat.jpg", f"by Stéfan van der Walt, {CC0}", **_animal("cat", "kitten")),
    Example(
        "Photographer",
        "app",
        "demo/examples/photographer.jpg",
        f"by Lav Varshney, {CC0}",
        (frozenset({"man", "person"}), frozenset({"camera"})),
    ),
    Example("Tower", "gradio", "media_assets/images/tower.jpg", GRADIO, (frozenset({"tower"}),)),
    Example(
        "Officer",
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "Grace Hopper, by James S. Davis, US Navy, public domain; comes with Matplotlib",
        (frozenset({"woman", "lady"}), frozenset({"hat", "cap", "uniform", "tie"})),
        frozenset({"man", "boy"}),
    ),
    Example("Lion", "gradio", "media_assets/images/lion.jpg", GRADIO, **_animal("lion")),
    Example("Cheetah", "gradio", "media_assets/images/cheetah.jpg", GRADIO, **_animal("cheetah", "leopard")),
    Example("Young cheetah", "gradio", "media_assets/images/cheetah1.jpg", GRADIO, **_animal("cheetah", "leopard")),
)
SHOWN = ("Cat", "Photographer", "Tower")


def free_examples() -> list[tuple[Example, Path]]:
    """Those that are free of all rights and come with vlcap, with their files: anybody may put them on a page."""
    return [(each, path) for each in CANDIDATES if each.package == "app" and (path := each.path())]


def shown_examples() -> list[tuple[Example, Path]]:
    """The photos that the page offers, with their files."""
    return [(each, path) for each in CANDIDATES if each.name in SHOWN and (path := each.path())]
