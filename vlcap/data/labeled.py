"""What evaluating and probing an encoder ask of labeled photos. train/labels.py reads them.

The readers lie in train/, beside what only training needs: streams, words as labels, caches. The command reads the
photos there and hands them on.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor


class Labeled(Protocol):
    """Photos with one class each."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""

    @property
    def targets(self) -> "Tensor":
        """Class numbers (n,)."""

    def __len__(self) -> int: ...

    def load(self, row: int) -> Image.Image:
        """The photo of a row, RGB. Raises ImageError if it cannot be read."""

    def clip(self, row: int, frames: int) -> Sequence[Image.Image]:
        """`frames` frames of a row's video, RGB, for encoders of clips. Raises ImageError if it cannot be read."""
