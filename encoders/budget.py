"""The token budget: the side of the compressed grid, checked in one place."""

from collections.abc import Sequence

from .errors import EncoderError


def check_budget(budget: int, grid: Sequence[int]) -> int:
    """The budget itself.

    Raises:
        EncoderError: It isn't a whole number from 1 to the short side of the lookup grid.
    """
    if isinstance(budget, bool) or not isinstance(budget, int) or not 1 <= budget <= min(grid):
        raise EncoderError(
            f"budget {budget!r} doesn't fit: it is the side of the compressed grid, a whole number from 1 to "
            f"{min(grid)} for this image's {grid[0]}x{grid[1]} lookup tokens"
        )
    return budget
