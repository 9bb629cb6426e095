"""A frozen encoder to probe: by what name, at which budgets, and what is read of it.

Legend of shapes
    B: batch   S: image in pixels   D: width of the tokens
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from ..captioner import Captioner, names_bundled
from ..errors import VlcapError
from ..evaluation.classifier import check_budgets
from ..model.encoder import Encoder
from ..model.folder import read_json
from ..model.timm_encoder import Reduce, make_encoder, names_timm

Pooled = Literal["tokens", "heads"]


class ProbeError(VlcapError, ValueError):
    """An encoder or photos that cannot be probed so: what is wrong, and what to do."""


@dataclass(frozen=True, eq=False)
class Subject:
    """An encoder at some budgets.

    Attributes:
        name: Name in the tables.
        encoder: The frozen encoder.
        budgets: Sides of the compressed grid.
        pooled: What is read: the mean of the tokens that a decoder reads, or what the classification heads read, one
            after the other (of a LookupViT both streams; of a ViT its class token, where it has one).
        numbers: The number in the encoder's heads of each class of the data; None if its heads don't know all of them.
    """

    name: str
    encoder: Encoder
    budgets: tuple[int, ...]
    pooled: Pooled = "tokens"
    numbers: tuple[int, ...] | None = None

    def see(self, photos: Sequence[Image.Image]) -> torch.Tensor | list[torch.Tensor]:
        """Photos as the encoder takes them at any budget: pixels (B, 3, S, S), or its trunk's features of them."""
        return self.encoder.see(torch.stack([torch.from_numpy(self.encoder.pixels.cut(photo)) for photo in photos]))

    def features(self, seen: Any, budget: int) -> np.ndarray:
        """What `see` gave -> the pooled tokens (B, D), or what the heads read (B, D of each together), float32."""
        if self.pooled == "heads":
            found = torch.cat(self.encoder.forward_pooled(seen, budget), dim=1)
        else:
            found = self.encoder(seen, budget=budget).last_hidden_state.mean(dim=1)
        return found.float().cpu().numpy()

    def answers(self, seen: Any, budget: int) -> np.ndarray:
        """What `see` gave -> the class of each photo by the encoder's own heads (B,)."""
        return self.encoder.classify(seen, budget)["all"].argmax(dim=1).cpu().numpy()


def load_subject(
    source: str | None,
    name: str | None = None,
    budgets: Sequence[int] | None = None,
    reduce: Reduce | None = None,
    pooled: Pooled = "tokens",
) -> Subject:
    """An encoder to probe.

    Args:
        source: RUN/encoder, a captioner folder, whose encoder is taken, timm:NAME or timm:FOLDER; None or
            `bundled` for the encoder of the bundled captioner.
        name: Name in the tables; None for the source.
        budgets: Sides of the compressed grid; None for those that it was trained for.
        reduce: How the tokens of a timm model become few; None for all of them.
        pooled: What is read of it.

    Raises:
        ModelFolderError: There is no such encoder.
        CaptionerError: There is no such captioner.
        ProbeError: It reads clips of videos, or `reduce` is for another kind of encoder.
        EncoderError: It cannot serve a budget.
    """
    if names_timm(source) and source is not None:
        encoder = make_encoder(source, reduce, budgets if reduce else None)
    else:
        if reduce:
            raise ProbeError(f"--reduce is for encoders timm:NAME only, not for {source or 'the bundled encoder'}")
        encoder = _trained(source)
    if encoder.frames:
        raise ProbeError(
            f"{source}: {encoder.config.architecture} reads clips of videos, and probing is for encoders of photos: "
            "vlcap evaluate --classifier tests it on videos"
        )
    encoder.to("cuda" if torch.cuda.is_available() else "cpu").freeze()
    sides = check_budgets(encoder, budgets if encoder.has_choice else None)
    return Subject(name or source or "bundled", encoder, tuple(sides), pooled)


def _trained(source: str | None) -> Encoder:
    """The encoder in a folder of its own, or in a captioner's."""
    if source is not None and not names_bundled(source):
        path = Path(source)
        inside = path if (path / "config.json").is_file() else path / "encoder"
        if "decoder" not in read_json(inside / "config.json"):
            return Encoder.load(inside)
    return Captioner.from_pretrained(source, engine="pytorch").model.encoder


def in_batches(rows: Sequence[int], size: int = 32) -> Iterator[list[int]]:
    """Rows, some at a time."""
    for start in range(0, len(rows), size):
        yield [*rows[start : start + size]]
