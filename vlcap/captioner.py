"""The captioner: a frozen encoder gives compressed tokens, and a text decoder with cross-attention reads them.

    from vlcap import Captioner
    captioner = Captioner.from_pretrained()          # the bundled one; or a folder, or a hub id
    captioner.caption(["photo.jpg"], budget=5)       # ["a dog running through the grass"]

As in LiT's locked-image tuning (arXiv 2111.07991) and section 3.4 of the LookupViT paper. A captioner folder holds
config.json, generation_config.json, model.safetensors and the two files of the tokenizer, in Hugging Face's formats.
"""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, VisionEncoderDecoderModel
from transformers.modeling_outputs import BaseModelOutput

from .data.images import load_image
from .data.pixels import PixelConfig
from .errors import CaptionerError
from .model.build import build_model, decoder_settings
from .model.decoding import Watch, find_captions, search_for
from .model.folder import find_folder
from .model.loading import load_decoder, load_fitting_tokenizer, load_model, trained_on
from .model.tokenizer import EOS, PAD, START

__all__ = [  # the last four are imported from here by the other rooms
    "BUNDLED",
    "Caption",
    "Captioner",
    "CaptionerError",
    "build_model",
    "decoder_settings",
    "fastest_dtype",
    "load_decoder",
]

BUNDLED = Path(str(files("vlcap") / "bundled"))


@dataclass(frozen=True)
class Caption:
    """The caption of one photo.

    Attributes:
        text: The caption.
        budget: Side of the compressed grid that it was read from.
        ms: Milliseconds that it took, as a share of the time of its batch.
        ids: Its pieces, without start, end and padding.
    """

    text: str
    budget: int
    ms: float
    ids: tuple[int, ...] = ()


class Captioner:
    """Photos to captions.

    Args:
        model: Captioning model, as `build_model` makes it.
        tokenizer: Tokenizer of the decoder.
        name: Name of the captioner in messages and results.
        trained_on: Names of the data sets that it was trained on; "" if they are not known.
    """

    def __init__(
        self,
        model: VisionEncoderDecoderModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "captioner",
        trained_on: str = "",
    ):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.trained_on = trained_on
        self._transform = self.pixels.eval_transform()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path | None = None,
        device: str | None = None,
        dtype: torch.dtype | None = torch.float32,
        int8: bool = False,
    ) -> "Captioner":
        """A captioner from a folder or from the Hugging Face hub.

        Only JSON and safetensors are read, and they are checked before memory is allocated (model/folder.py). No code
        of the folder is run.

        Args:
            name: Folder or hub id; None for the bundled captioner.
            device: Device to run on; None for a GPU if there is one and int8 is off, otherwise the CPU.
            dtype: Type of the weights in memory, whatever type they were saved in; None for the device's fastest.
            int8: Whether linear layers get 8-bit weights (model/quantize.py): faster on a CPU, a little less exact.

        Raises:
            CaptionerError: There is no captioner of ours in that place, or int8 is asked for on a GPU.
        """
        device = device or ("cpu" if int8 or not torch.cuda.is_available() else "cuda")
        if int8 and torch.device(device).type != "cpu":
            raise CaptionerError(f"int8 weights are for CPUs, not for {device}: use dtype=torch.bfloat16 there")
        if dtype is None:
            dtype = torch.float32 if int8 else fastest_dtype(device)
        if name is None and not (BUNDLED / "config.json").is_file():
            raise CaptionerError("no bundled captioner in this installation: name one with --model FOLDER")
        source = str(BUNDLED) if name is None else str(name)
        try:
            folder = find_folder(source)
            model = load_model(folder, dtype)
            tokenizer = load_fitting_tokenizer(folder, model.decoder)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CaptionerError(f"no captioner can be loaded from {source}: {reason}") from error
        model.encoder.freeze()
        if int8:
            from .model.quantize import quantize

            quantize(model)
        name = "bundled" if name is None else Path(source).resolve().name
        return cls(model.to(device), tokenizer, name=name, trained_on=trained_on(folder))

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Writes the captioner folder.

        Args:
            folder: The folder.
            dtype: Type of the weights in the file; None for their type in memory. bfloat16 halves the size.

        Raises:
            CaptionerError: The captioner has int8 weights, which can only be run.
        """
        if any(type(module).__name__ == "Int8Linear" for module in self.model.modules()):
            raise CaptionerError("an int8 captioner can't be saved: load it without int8 and save that")
        weights = self.model.state_dict(keep_vars=True)  # the parameters themselves, so that a tied one is saved once
        cast = {
            id(weight): weight.detach().to(dtype if dtype and weight.is_floating_point() else weight.dtype)
            for weight in weights.values()
        }
        state = {name: cast[id(weight)] for name, weight in weights.items()}
        self.model.save_pretrained(folder, state_dict=state)
        self.tokenizer.save_pretrained(folder)

    @property
    def budgets(self) -> list[int]:
        """Sides of the compressed grid that it was trained for."""
        return self.model.encoder.config.budgets

    @property
    def default_budget(self) -> int:
        """Side of the compressed grid where none is asked for."""
        return self.model.encoder.budget

    @property
    def pixels(self) -> PixelConfig:
        """Preprocessing of the photos."""
        return self.model.encoder.pixels

    def generation(self, **changes: Any) -> dict[str, Any]:
        """The decoding settings of the model, with changes."""
        own = self.model.generation_config.to_diff_dict() | changes
        return {name: value for name, value in own.items() if not name.endswith(("_token_id", "_version"))}

    def preprocess(self, photos: Sequence[Any]) -> torch.Tensor:
        """Photos, in any form that `load_image` takes -> uint8 pixels (B, 3, S, S)."""
        return torch.stack([self.read(photo) for photo in photos])

    def read(self, photo: Any) -> torch.Tensor:
        """One photo, in any form that `load_image` takes -> uint8 pixels (3, S, S)."""
        return self._transform(load_image(photo))

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        """uint8 pixels (B, 3, S, S) -> compressed tokens (B, M, D).

        Raises:
            EncoderError: The budget does not fit the grid.
        """
        return self.model.encoder(self.normalize(pixels), budget=budget).last_hidden_state

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 pixels (B, 3, S, S) -> normalized pixels, of the encoder's type and on its device."""
        return self.pixels.normalize(pixels.to(self.model.device)).to(self.model.dtype)

    def decode(self, tokens: torch.Tensor, **generation: Any) -> list[str]:
        """Compressed tokens (B, M, D) -> captions. `generation` overrides the settings of the model."""
        return [self.text(ids) for ids in self.decode_ids(tokens, **generation)]

    def decode_ids(
        self,
        tokens: torch.Tensor,
        watch: Watch | None = None,
        **generation: Any,
    ) -> list[tuple[int, ...]]:
        """Compressed tokens (B, M, D) -> the pieces of their captions, without start, end and padding.

        Args:
            tokens: Compressed tokens, (B, M, D).
            watch: Function that is called after each step with the leading pieces of the first photo. If it returns
                True, the search ends.
            generation: As for `caption`. Settings that `search_for` does not know go to Hugging Face's `generate`.
        """
        search = search_for(self.model, **generation)
        if search is not None:
            found = find_captions(self.model, tokens, search, watch)
        else:
            found = self._generate(tokens, watch, **generation)
        return [_without_marks(ids) for ids in found]

    @torch.inference_mode()
    def _generate(self, tokens: torch.Tensor, watch: Watch | None, **generation: Any) -> list[list[int]]:
        # Hugging Face's streamers refuse beams. A stopping criterion sees every step of every search, best beam first.
        def look(ids: torch.Tensor, scores: Any, **unused: Any) -> torch.Tensor:
            stop = watch is not None and watch(ids[0].tolist())
            return torch.full((len(ids),), stop, dtype=torch.bool, device=ids.device)

        if watch is not None:
            generation["stopping_criteria"] = [look]
        # Wrapped anew each time: beam search expands its input in place.
        outputs = BaseModelOutput(last_hidden_state=tokens)
        return self.model.generate(encoder_outputs=outputs, **generation).tolist()

    def text(self, ids: Sequence[int]) -> str:
        """Pieces of a caption -> its text."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def caption(
        self,
        photos: Sequence[Any],
        budget: int | None = None,
        batch_size: int = 32,
        **generation: Any,
    ) -> list[str]:
        """Captions of photos, in the order of the photos.

        Args:
            photos: Paths, bytes, binary files or PIL images.
            budget: Side of the compressed grid; None for the model's default.
            batch_size: Number of photos at a time.
            generation: Settings with Hugging Face's names: num_beams, max_new_tokens, length_penalty, do_sample ...

        Raises:
            ImageError: A photo cannot be read.
            EncoderError: The budget does not fit the grid.
        """
        batches = (photos[i : i + batch_size] for i in range(0, len(photos), batch_size))
        return [
            caption.text
            for batch in batches
            for caption in self.caption_pixels(self.preprocess(batch), budget=budget, **generation)
        ]

    def caption_pixels(self, pixels: torch.Tensor, budget: int | None = None, **generation: Any) -> Iterator[Caption]:
        """Captions of one batch of uint8 pixels (B, 3, S, S), with their times."""
        start = time.perf_counter()
        found = self.decode_ids(self.encode(pixels, budget), **generation)
        ms = (time.perf_counter() - start) * 1000 / len(found)
        for ids in found:
            yield Caption(self.text(ids), budget=budget or self.default_budget, ms=ms, ids=ids)

    def stream(self, pixels: torch.Tensor, budget: int | None = None, **generation: Any) -> Iterator[Caption]:
        """The caption of one photo as it grows: the leading beam of each step, and at the end the finished caption.

        Decoding runs in a thread and never waits for the reader. A slow reader misses steps. Decoding ends when the
        reader closes the iterator.

        Args:
            pixels: Pixels of the photo, uint8 (1, 3, S, S).
            budget: Side of the compressed grid; None for the model's default.
            generation: As for `caption`.
        """
        steps: queue.SimpleQueue[tuple[Any, bool]] = queue.SimpleQueue()  # (caption or error, whether it is last)
        budget = budget or self.default_budget
        start = time.perf_counter()
        closed = threading.Event()

        def found(ids: Sequence[int]) -> Caption:
            kept = _without_marks(ids)
            return Caption(self.text(kept), budget=budget, ms=(time.perf_counter() - start) * 1000, ids=kept)

        def watch(ids: Sequence[int]) -> bool:
            steps.put((found(ids), False))
            return closed.is_set()

        def work() -> None:
            try:
                [ids] = self.decode_ids(self.encode(pixels, budget), watch=watch, **generation)
                steps.put((found(ids), True))
            except Exception as error:
                steps.put((error, True))

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            last = False
            while not last:
                step, last = steps.get()
                while not steps.empty():
                    step, last = steps.get()
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            closed.set()
            worker.join()


def fastest_dtype(device: str) -> torch.dtype:
    """bfloat16 if the device multiplies matrices in it, otherwise float32: emulated bfloat16 is far slower."""
    if torch.device(device).type == "cpu":
        able = torch.cpu.get_capabilities()
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32


def _without_marks(ids: Sequence[int]) -> tuple[int, ...]:
    """The pieces without start, end and padding."""
    return tuple(piece for piece in ids if piece not in (PAD, START, EOS))
