"""Writes captioner folders. `Captioner.save_pretrained` is the way in, and the trainer writes with `save_files`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from transformers import PreTrainedTokenizerBase, VisionEncoderDecoderModel

from ..engines.interface import Facts
from ..errors import CaptionerError
from ..files.writing import written_whole
from ..model.processor import save_processor
from .card import CARD, MAX_BYTES, About, make_card

KIND = "captioner"  # of the folder, in its marker
RULE = "budget_auto.json"  # auto_budget.py reads it


class Published(Protocol):
    """What is needed of a `Captioner`."""

    folder: Path | None

    @property
    def model(self) -> VisionEncoderDecoderModel: ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    @property
    def facts(self) -> Facts: ...


def save(
    captioner: Published,
    folder: str | Path,
    dtype: torch.dtype | None = None,
    license: str | None = None,
    metrics: Sequence[str | Path] = (),
) -> None:
    """Writes a captioner folder whole or not at all. A person's files in it stay.

    Args:
        captioner: The captioner.
        folder: The folder; made if it does not exist.
        dtype: Type of the weights in the file; None for their type in memory. bfloat16 halves the size.
        license: Hugging Face's name of the license of the weights, for the card; None for what the card says already.
        metrics: Files metrics.json that `vlcap evaluate` wrote for this captioner, for the card.

    Raises:
        CaptionerError: It has int8 weights, which can only be run; another engine than PyTorch runs it; or a file of
            metrics is none.
        NotOursError: vlcap did not write the folder, and it holds something; or a file of ours in it was changed.
    """
    model, tokenizer = captioner.model, captioner.tokenizer
    name = Path(folder).resolve().name
    card = make_card(captioner.facts, About(name, captioner.folder, license, metrics))
    with written_whole(Path(folder), KIND) as new:
        save_files(model, tokenizer, new, dtype)
        copy_rule(captioner.folder, new)
        (new / CARD).write_text(card, encoding="utf-8")


def copy_rule(old: Path | None, new: Path) -> None:
    """Copies the rule of --budget auto, which was fitted to a captioner's weights, into its new folder."""
    rule = old / RULE if old else None
    if rule and rule.is_file() and rule.stat().st_size <= MAX_BYTES:
        (new / RULE).write_bytes(rule.read_bytes())


def save_files(
    model: VisionEncoderDecoderModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes the files of a captioner, all but its card, into a folder that is ours already.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        folder: The folder.
        dtype: As for `save`.

    Raises:
        CaptionerError: The captioner has int8 weights.
    """
    if any(type(module).__name__ == "Int8Linear" for module in model.modules()):
        raise CaptionerError("an int8 captioner can't be saved: load it without int8 and save that")
    weights = model.state_dict(keep_vars=True)  # the parameters themselves, so that a tied one is saved once
    cast = {
        id(weight): weight.detach().to(dtype if dtype and weight.is_floating_point() else weight.dtype)
        for weight in weights.values()
    }
    model.save_pretrained(folder, state_dict={name: cast[id(weight)] for name, weight in weights.items()})
    tokenizer.save_pretrained(folder)
    save_processor(model.encoder.pixels, folder)
