"""What a right caption says of the example photos, and of further photos of dependencies that may become examples."""

from dataclasses import dataclass
from pathlib import Path

from app.demo.example_photos import EXAMPLES, GRADIO, Example

ANIMALS = {"cat", "dog", "bird", "giraffe", "zebra", "horse", "cow", "bear", "elephant", "sheep", "lion", "leopard"}
FURTHER = (
    Example("Officer", "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "Grace Hopper, US Navy, public domain"),
    Example("Lion", "gradio", "media_assets/images/lion.jpg", GRADIO),
    Example("Cheetah", "gradio", "media_assets/images/cheetah.jpg", GRADIO),
    Example("Young cheetah", "gradio", "media_assets/images/cheetah1.jpg", GRADIO),
)


@dataclass(frozen=True)
class Right:
    """A right caption has at least one word of each group of `words`, and none of `wrong`."""

    words: tuple[frozenset[str], ...]
    wrong: frozenset[str] = frozenset()

    def is_right(self, caption: str) -> bool:
        said = set(caption.replace(".", " ").replace(",", " ").split())
        return all(said & group for group in self.words) and not said & self.wrong


def _right(words: str, wrong: str = "") -> Right:
    """`words` has the groups, separated by commas."""
    return Right(tuple(frozenset(group.split()) for group in words.split(",")), frozenset(wrong.split()))


def _animal(words: str) -> Right:
    return Right((frozenset(words.split()),), frozenset(ANIMALS - {*words.split()} | {"snow"}))


RIGHT = {
    "Cat": _animal("cat kitten"),
    "Photographer": _right("man person, camera"),
    "Tower": _right("tower"),
    "Officer": _right("woman lady, hat cap uniform tie", wrong="man boy"),
    "Lion": _animal("lion"),
    "Cheetah": _animal("cheetah leopard"),
    "Young cheetah": _animal("cheetah leopard"),
}


def candidates() -> dict[str, Path]:
    """All these photos by name; a dependency of another version may lack some."""
    return {each.name: path for each in (*EXAMPLES, *FURTHER) if (path := each.path())}
