"""What every engine does: it encodes photos, and decodes captions step by step.

    engine = TorchEngine(model, tokenizer)       # GPUs, training, bfloat16, any setting of Hugging Face's `generate`
    engine = OnnxEngine(folder)                  # CPUs: starts in a fraction of a second, imports no PyTorch

    tokens = engine.encode(pixels, budget)
    [written] = find_captions(engine.start(tokens, search), search)       # vlcap/model/search.py
    engine.text(written.ids)

Letters: B photos   G beams of each   S side of the pixels   M compressed tokens   N = h * w lookup tokens
    L blocks of the encoder   T pieces of a caption   V pieces of the vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..data.pixels import PixelConfig
from ..errors import CaptionerError
from ..model.search import Decoding, Search, Watch, Written

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Facts:
    """What is known of a captioner without running it.

    Attributes:
        architecture: Registered name of the encoder.
        parameters: Number of weights of encoder and decoder.
        pixels: Preprocessing of the photos.
        budgets: Sides of the compressed grid that it was trained for.
        budget: Side of the compressed grid where none is asked for.
        has_choice: Whether the encoder serves other budgets than its own.
        grid: Side of the grid of lookup tokens: the largest budget.
        gathers: Whether the encoder has gather attention to show.
        longest: Most pieces of a caption.
        generation: Decoding settings, with Hugging Face's names.
        trained_on: Names of the data sets that it was trained on; "" if they are not known.
        frames: Frames of a clip, if its encoder reads clips of videos; None if it reads photos.
    """

    architecture: str
    parameters: int
    pixels: PixelConfig
    budgets: tuple[int, ...]
    budget: int
    has_choice: bool
    grid: int
    gathers: bool
    longest: int
    generation: Mapping[str, Any]
    trained_on: str = ""
    frames: int | None = None


@dataclass(frozen=True)
class Attention:
    """Where a caption came from, in one photo.

    Attributes:
        gathered: Gather attention of each block (L, M, N), float32, averaged over heads; rows sum to 1.
        read: Cross-attention (T, M) of the steps that chose the pieces, float32, averaged over layers and heads.
        grid: (h, w).
    """

    gathered: NDArray
    read: NDArray
    grid: tuple[int, int]


class Engine(Protocol):
    """Runs one captioner. Arrays of photos and of results are NumPy's; tokens are the engine's own affair."""

    kind: str  # "pytorch" or "onnx"
    int8: bool  # whether linear layers have 8-bit weights
    lanes: int  # batches that it does best side by side; 1 if one batch keeps the whole device busy

    @property
    def facts(self) -> Facts:
        """What is known of the captioner."""

    def lane(self) -> Engine:
        """The engine for one of several batches side by side, which may be called from several threads."""

    def gflops(self, budget: int) -> float:
        """GFLOPs (2 x MACs) of encoding one photo at a budget.

        Raises:
            CaptionerError: The engine was not made for this budget.
        """

    def encode(self, pixels: NDArray, budget: int) -> Any:
        """uint8 pixels (B, 3, S, S) -> compressed tokens of B photos, for `start`; of clips (B, T, 3, S, S).

        Raises:
            CaptionerError, EncoderError: The budget does not fit the grid, or this engine was not made for it.
        """

    def join(self, tokens: Any, frames: int) -> Any:
        """Tokens of B * `frames` photos -> of B videos, each with those of all its frames for the decoder to read."""

    def search(self, **changes: Any) -> Search | None:
        """The captioner's settings with changes; None if they ask for more than our own searches can do."""

    def start(self, tokens: Any, search: Search) -> Decoding:
        """The state of decoding, before the first piece."""

    def generate(self, tokens: Any, watch: Watch | None, **generation: Any) -> list[Written]:
        """Captions under settings that `search` refuses.

        Raises:
            CaptionerError: This engine has no other search.
        """

    def attention(self, pixels: NDArray, budget: int, pieces: Sequence[int]) -> Attention:
        """Where the pieces of one photo's caption came from. The caption is read once more, as in training.

        Raises:
            CaptionerError: The encoder has no gather attention.
        """

    def text(self, ids: Sequence[int]) -> str:
        """Pieces of a caption -> its text."""

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each piece, with SentencePiece's mark where a word begins."""


def encode(engine: Engine, pixels: NDArray, budget: int) -> Any:
    """Compressed tokens of photos, or of videos.

    An encoder of photos sees each frame of a video by itself, and their tokens are read together: a decoder's
    cross-attention has no positions, and takes any number of tokens. An encoder of clips sees all frames at once, and
    a photo as a clip in which nothing moves.

    Args:
        engine: The engine.
        pixels: uint8 pixels of photos (B, 3, S, S), or of F frames of videos (B, F, 3, S, S).
        budget: Side of the compressed grid of a photo or frame.

    Raises:
        CaptionerError, EncoderError: As `Engine.encode`.
    """
    own = engine.facts.frames
    if own and pixels.ndim == 4:
        pixels = np.repeat(pixels[:, None], own, axis=1)
    if own and pixels.shape[1] != own:
        raise CaptionerError(f"its encoder reads clips of {own} frames, not of {pixels.shape[1]}")
    if own or pixels.ndim == 4:
        return engine.encode(pixels, budget)
    return engine.join(engine.encode(pixels.reshape(-1, *pixels.shape[2:]), budget), pixels.shape[1])
