"""A timm model's tokens reduced to any budget up to the side of its grid: what these encoders share, and pooling.

Legend of shapes
    B: batch   S: image in pixels   P: class and register tokens   N = h * h: the model's own tokens, without them
    D: width   s: budget
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .interface import TimmEncoder


class Budgeted(TimmEncoder):
    """The part of the contract that encoders with a choice of budgets share. Name it first among the bases.

    A decoder reads s x s tokens, no more and no fewer. Class and register tokens take part in the model, and are then
    left out.
    """

    has_choice = True

    def choose(self, budget: int, budgets: Sequence[int]) -> None:
        """Sets the default budget, and the budgets that it is compared at and that training draws from."""
        self.budget, self._budgets = budget, tuple(budgets)

    def _describe(self) -> None:
        chosen = self.__dict__.get("budget")
        super()._describe()
        self.side = self.budget  # of the model's own grid
        if chosen is not None:
            self.budget = chosen

    @property
    def budgets(self) -> tuple[int, ...]:
        return self._budgets

    @budgets.setter
    def budgets(self, budgets: Sequence[int]) -> None:
        self._budgets = tuple(budgets)

    def grid_side(self, size: int) -> int:
        super().grid_side(size)
        return self.side

    def token_count(self, budget: int, size: int) -> int:
        return budget**2

    def check_budget(self, budget: int | None, grid: Sequence[int] | None = None) -> int:
        return super().check_budget(budget, grid or (self.side, self.side))


class Pooled(Budgeted):
    """The last tokens, averaged over an s x s grid, whose cells overlap where s does not divide the side.

    TokenFLEX (arXiv 2504.03154) pools so. The classifier is the model's own, whatever the budget: pooling changes only
    what a decoder reads.
    """

    def forward_tokens(self, x: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        """Pixels (B, 3, S, S) -> tokens (B, s * s, D)."""
        side = self.check_budget(budget)
        patches = self.every_token(x)[:, self.prefix_tokens :]  # (B, N, D)
        grid = patches.transpose(1, 2).unflatten(2, (self.side, self.side))
        return F.adaptive_avg_pool2d(grid, side).flatten(2).transpose(1, 2)
