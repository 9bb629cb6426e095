"""What may be asked of the captioner: budgets, numbers of captions, and settings of its search."""

from dataclasses import dataclass, field
from typing import Any

from vlcap.auto_budget import AutoBudget
from vlcap.bulk.work import Wish
from vlcap.captioner import Captioner
from vlcap.data.names import printable

from .errors import wrong

MOST_CAPTIONS = 16  # of a photo: as many beams or samples are in memory
COOLEST = 0.01  # temperature, of those above 0


@dataclass(frozen=True)
class ServedModel:
    """The captioner, and what the server's owner chose.

    Attributes:
        captioner: The captioner.
        rule: The rule of the budget "auto"; None if the captioner has none.
        budget: Budget where a request names none; None for the captioner's own.
        generation: Settings of the search where a request has none.
    """

    captioner: Captioner
    rule: AutoBudget | None = None
    budget: int | AutoBudget | None = None
    generation: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model's id."""
        return printable(self.captioner.name)

    @property
    def budgets(self) -> list[int]:
        """Sides of the compressed grid that may be asked for."""
        captioner, own = self.captioner, [self.budget] if isinstance(self.budget, int) else []
        return sorted({*captioner.budgets, captioner.default_budget, *own})

    @property
    def default_budget(self) -> int | str:
        """What a request gets that names no budget."""
        if isinstance(self.budget, AutoBudget):
            return "auto"
        return self.captioner.default_budget if self.budget is None else self.budget

    def wish(
        self,
        budget: Any = None,
        count: int | None = None,
        most_pieces: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        param: str = "count",
    ) -> Wish:
        """What a request asks for.

        Args:
            budget: Side of the compressed grid, or "auto"; None for the server's own.
            count: Number of captions; None for one.
            most_pieces: Largest number of pieces of a caption; None for the captioner's own. It never lengthens one.
            temperature: Temperature of sampling; None or 0 for the captioner's own search.
            top_p: Share of the probability that is sampled from; None for all of it.
            param: The request's name of the count.

        Raises:
            ApiError: The captioner can't do it. The message says what it can.
        """
        count = 1 if count is None else count
        if not 1 <= count <= MOST_CAPTIONS:
            raise wrong(f"{param} must be from 1 to {MOST_CAPTIONS}, not {count}.", param)
        settings = dict(self.generation)
        own = self.captioner.generation(**settings)
        if temperature:
            if temperature < COOLEST:
                raise wrong(f"temperature must be 0, or from {COOLEST} to 2.", "temperature")
            chosen = {"temperature": float(temperature), "top_p": 1.0 if top_p is None else float(top_p)}
            settings |= {"do_sample": True, "num_beams": 1, "top_k": 0, **chosen}
        elif top_p not in (None, 1):
            raise wrong("top_p is for sampling: it needs a temperature above 0.", "top_p")
        elif count > own.get("num_beams", 1):
            settings["num_beams"] = count
        if most_pieces is not None and most_pieces < own.get("max_new_tokens", self.captioner.facts.longest):
            settings["max_new_tokens"] = most_pieces
        return Wish(self._side(budget), count, generation=settings)

    def _side(self, budget: Any) -> int | AutoBudget | None:
        if budget is None:
            return self.budget if self.budget is not None else self.captioner.default_budget
        if budget == "auto" and self.rule is not None:
            return self.rule
        if type(budget) is int and budget in self.budgets:  # True is an int, too
            return budget
        auto = ' or "auto"' if self.rule is not None else ""
        known = ", ".join(map(str, self.budgets))
        raise wrong(f"budget must be one of {known}{auto} for {self.name}, not {budget!s:.20}.", "budget")

    def card(self, created: int) -> dict[str, Any]:
        """The model as /v1/models shows it."""
        facts = self.captioner.facts
        return {
            "id": self.name,
            "object": "model",
            "created": created,
            "owned_by": "vlcap",
            "description": "Captions one photo. Texts of the messages are accepted and ignored.",
            "budgets": self.budgets,
            "default_budget": self.default_budget,
            "auto_budget": self.rule is not None,
            "longest_caption": facts.longest,
            "trained_on": facts.trained_on,
        }
