"""What a comparison asks of a captioner, besides captions: what it is, and what its work costs.

`HuggingFaceCaptioner` answers for itself. `Ours` answers for a captioner of ours.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from encoders.cost import count_parameters

from ..captioner import Captioner
from ..model.encoder import digest_weights
from .costs import count_decoder_gflops
from .hugging_face import HuggingFaceCaptioner


class Subject(Protocol):
    """A captioner in a comparison."""

    @property
    def architecture(self) -> str:
        """Name of the kind of its encoder."""

    @property
    def image_size(self) -> int:
        """Side of its photos in pixels."""

    @property
    def parameters(self) -> tuple[int, int]:
        """Number of weights of the encoder, and of the decoder with all that is between them."""

    @property
    def longest(self) -> int:
        """Most pieces of a caption."""

    def token_count(self, budget: int) -> int:
        """Tokens that the decoder reads."""

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Pieces of each caption, its end included."""

    def identity(self) -> dict[str, Any]:
        """What its captions depend on, besides budget, settings and photos."""

    def encoder_gflops(self, budget: int) -> float:
        """GFLOPs (2 x MACs) of encoding one photo."""

    def decoder_gflops(self, budget: int, length: int, **generation: Any) -> float:
        """GFLOPs of decoding one caption of `length` pieces."""


class Ours:
    """A captioner of ours, run by PyTorch."""

    def __init__(self, captioner: Captioner):
        self.captioner = captioner
        self.encoder = captioner.model.encoder

    @property
    def architecture(self) -> str:
        return self.encoder.config.architecture

    @property
    def image_size(self) -> int:
        return self.captioner.pixels.size

    @property
    def parameters(self) -> tuple[int, int]:
        encoder = count_parameters(self.encoder)
        return encoder, count_parameters(self.captioner.model) - encoder

    @property
    def longest(self) -> int:
        return self.captioner.model.config.decoder.n_positions

    def token_count(self, budget: int) -> int:
        return self.encoder.token_count(budget)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self.captioner.tokenizer([*texts])["input_ids"]]

    def identity(self) -> dict[str, Any]:
        model = self.captioner.model
        return {
            "weights": digest_weights(model),
            "architecture": self.encoder.config.architecture,
            "model_args": self.encoder.config.model_args,
            "pixels": self.encoder.config.pixels,
            "decoder": model.config.decoder.to_dict(),
            "vocabulary": self.captioner.tokenizer.get_vocab(),
        }

    def encoder_gflops(self, budget: int) -> float:
        return self.encoder.gflops(budget)

    def decoder_gflops(self, budget: int, length: int, **generation: Any) -> float:
        return count_decoder_gflops(self.captioner, self.token_count(budget), length, **generation)


def subject(captioner: Captioner | HuggingFaceCaptioner) -> Subject:
    """The captioner, with the answers that a comparison needs."""
    return captioner if isinstance(captioner, HuggingFaceCaptioner) else Ours(captioner)
