"""The rows of a comparison, and all of its results, as they are kept in JSON."""

from dataclasses import asdict, dataclass
from typing import Any

from .bootstrap import Difference


@dataclass(frozen=True)
class Row:
    """A captioner at one budget. Scores are raw; cider_low and cider_high bound the confidence interval.

    budget is the side of the compressed grid; of a third-party captioner, the number of its tokens. image_size is in
    pixels. family is the captioner's name where model adds another image size than its own. Both are None in results of
    earlier versions. Of captions that another program has written, all that describes a captioner is None, and so is
    the cost, but for stated_gflops where it was given.
    """

    model: str
    encoder: str | None
    budget: int | None
    tokens: int | None
    trained_for: bool
    N: int
    CIDEr: float
    cider_low: float
    cider_high: float
    Bleu_4: float
    ROUGE_L: float
    distinct: float
    encoder_gflops: float | None
    decoder_gflops: float | None
    encoder_ms: float | None
    decoder_ms: float | None
    encoder_params: int | None
    decoder_params: int | None
    predictions: str
    image_size: int | None = None
    family: str | None = None
    stated_gflops: float | None = None

    @property
    def gflops(self) -> float | None:
        if self.encoder_gflops is None or self.decoder_gflops is None:
            return self.stated_gflops
        return self.encoder_gflops + self.decoder_gflops

    @property
    def ms(self) -> float | None:
        return None if self.encoder_ms is None or self.decoder_ms is None else self.encoder_ms + self.decoder_ms

    @property
    def label(self) -> str:
        return self.model if self.tokens is None else f"{self.model}, {self.tokens} tokens"


@dataclass(frozen=True)
class Comparison:
    """All results of `compare`: rows, every paired difference, and the settings that they depend on."""

    rows: list[Row]
    differences: list[Difference]
    setting: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Comparison":
        """Reads what `to_dict` returned, also after a round trip through JSON."""
        return cls(
            rows=[Row(**row) for row in values["rows"]],
            differences=[Difference(**difference) for difference in values["differences"]],
            setting=values["setting"],
        )
