"""The captioner: a frozen encoder gives compressed tokens, and a text decoder with cross-attention reads them.

    from vlcap import Captioner
    captioner = Captioner.from_pretrained()          # the bundled one; or a folder, or a hub id
    captioner.caption(["photo.jpg"], budget=5)       # ["a dog running through the grass"]

As in LiT's locked-image tuning (arXiv 2111.07991) and section 3.4 of the LookupViT paper. A captioner folder holds
config.json, generation_config.json, model.safetensors and the two files of the tokenizer, in Hugging Face's formats.

An engine runs it (vlcap/engines): ONNX Runtime on a CPU, PyTorch on a GPU. This file imports neither.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .batches import encoded_ahead, work_on
from .data.images import load_image
from .data.pixels import PixelConfig
from .engines.choose import choose, torch_engine
from .engines.interface import Engine, Facts, encode
from .errors import CaptionerError, VlcapError, reason
from .model.finding import find_folder
from .model.search import Watch, Written, find_captions, find_several
from .model.tokenizer import EOS, PAD, START

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, VisionEncoderDecoderModel

BUNDLED = Path(str(files("vlcap") / "bundled"))


def names_bundled(name: str | Path | None) -> bool:
    """Whether this names the captioner that comes with vlcap: None, or `bundled` where no folder is called so."""
    return name is None or (name == "bundled" and not Path(name).exists())


def find_captioner(name: str | Path | None) -> Path:
    """The folder of the captioner of this name, downloaded if it lies on the Hugging Face hub.

    Raises:
        OSError: There is none.
    """
    return BUNDLED if names_bundled(name) else find_folder(str(name))


@dataclass(frozen=True)
class Caption:
    """The caption of one photo.

    Attributes:
        text: The caption.
        budget: Side of the compressed grid that it was read from.
        ms: Milliseconds that it took, as a share of the time of its batch.
        ids: Its pieces, without start, end and padding.
        logprobs: Log-probability of each piece and of the end, as the decoder gave it; without the end if the caption
            reached its limit.
        others: Other captions of the photo, if several were asked for, the best first. Their texts are all different.
    """

    text: str
    budget: int
    ms: float
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    others: tuple[Caption, ...] = ()

    @property
    def score(self) -> float:
        """Mean log-probability of its pieces and its end: 0 is certain, and the lower, the less sure."""
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else 0.0


class Captioner:
    """Photos to captions.

    Args:
        engine: What runs it.
        name: Name of the captioner in messages and results.
        is_bundled: Whether it is the captioner that comes with vlcap.
    """

    def __init__(self, engine: Engine, name: str = "captioner", is_bundled: bool = False):
        self.engine = engine
        self.name = name
        self.is_bundled = is_bundled
        self.pixels: PixelConfig = engine.facts.pixels  # preprocessing of the photos
        self.folder: Path | None = None  # that it was loaded from

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path | None = None,
        engine: str | None = None,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        int8: bool = False,
        budget: int | None = None,
    ) -> Captioner:
        """A captioner from a folder or from the Hugging Face hub.

        Only JSON and safetensors are read, and they are checked before memory is allocated (model/folder.py). No code
        of the folder is run.

        Args:
            name: Folder or hub id; None or `bundled` for the bundled captioner.
            engine: onnx or pytorch; None for $VLCAP_ENGINE, or ONNX Runtime on a CPU and PyTorch on a GPU. Another
                captioner than the bundled one is exported to ONNX when it is first loaded, which takes a minute.
            device: Device to run on; None for a GPU if there is one, otherwise the CPU. ONNX Runtime is for the CPU.
            dtype: Type of the weights in memory, whatever type they were saved in; None for float32. With another
                type, PyTorch is the engine.
            int8: Whether the weights are in 8 bits, for CPUs that are fast at it; a little less exact.
            budget: Side of the compressed grid that will be asked for, if only one: ONNX graphs are made for it alone.

        Raises:
            CaptionerError: There is no captioner of ours in that place, or the engine can't do what was asked.
        """
        is_bundled = names_bundled(name)
        if is_bundled and not (BUNDLED / "config.json").is_file():
            raise CaptionerError("no bundled captioner in this installation: name one with --model FOLDER")
        chosen = choose(engine or ("pytorch" if dtype is not None else None), device)
        source = str(BUNDLED) if is_bundled else str(name)
        made: Engine
        try:
            folder = find_captioner(name)
            if chosen == "onnx":
                from .export.cache import onnx_engine  # with it comes ONNX Runtime

                made = onnx_engine(folder, bundled=is_bundled, int8=int8, budget=budget)
            else:
                made = torch_engine(folder, device, dtype, int8)
        except CaptionerError:
            raise
        except (OSError, ValueError, VlcapError) as error:
            raise CaptionerError(f"no captioner can be loaded from {source}: {reason(error, 600)}") from error
        loaded = cls(made, "bundled" if is_bundled else Path(source).resolve().name, is_bundled)
        loaded.folder = folder
        return loaded

    @classmethod
    def from_model(
        cls,
        model: VisionEncoderDecoderModel,
        tokenizer: PreTrainedTokenizerBase | None,
        name: str = "captioner",
        trained_on: str = "",
    ) -> Captioner:
        """A captioner of a model in memory, run by PyTorch.

        Args:
            model: Captioning model, as `build_model` makes it.
            tokenizer: Tokenizer of the decoder; None if no text is needed.
            name: Name of the captioner in messages and results.
            trained_on: Names of the data sets that it was trained on; "" if they are not known.
        """
        from .engines.pytorch import TorchEngine

        return cls(TorchEngine(model, tokenizer, trained_on), name)

    @property
    def model(self) -> VisionEncoderDecoderModel:
        """The PyTorch model.

        Raises:
            CaptionerError: Another engine runs this captioner.
        """
        return self._torch().model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Hugging Face's tokenizer.

        Raises:
            CaptionerError: Another engine runs this captioner.
        """
        return self._torch().tokenizer

    def _torch(self) -> Any:
        if self.engine.kind != "pytorch":
            raise CaptionerError(f"{self.name} is run by {self.engine.kind}: load it with engine='pytorch' for this")
        return self.engine

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None, **card: Any) -> None:
        """Writes the captioner folder, with a model card. Arguments and errors as `vlcap.publishing.folder.save`."""
        from .publishing.folder import save

        save(self, folder, dtype, **card)

    def push_to_hub(self, repo_id: str, private: bool | None = None, token: str | None = None, **how: Any) -> str:
        """Uploads it to the Hugging Face hub. Arguments, result and errors as `vlcap.publishing.hub.push`."""
        from .publishing.hub import push

        return push(self, repo_id, private, token, **how)

    @property
    def facts(self) -> Facts:
        """What is known of it without running it."""
        return self.engine.facts

    @property
    def trained_on(self) -> str:
        """Names of the data sets that it was trained on; "" if they are not known."""
        return self.facts.trained_on

    @property
    def budgets(self) -> list[int]:
        """Sides of the compressed grid that it was trained for."""
        return list(self.facts.budgets)

    @property
    def default_budget(self) -> int:
        """Side of the compressed grid where none is asked for."""
        return self.facts.budget

    def generation(self, **changes: Any) -> dict[str, Any]:
        """The decoding settings of the model, with changes."""
        return {**self.facts.generation, **changes}

    def preprocess(self, photos: Sequence[Any]) -> NDArray[np.uint8]:
        """Photos, in any form that `load_image` takes -> uint8 pixels (B, 3, S, S)."""
        return np.stack([self.read(photo) for photo in photos])

    def read(self, photo: Any) -> NDArray[np.uint8]:
        """One photo, in any form that `load_image` takes -> uint8 pixels (3, S, S)."""
        return self.pixels.cut(load_image(photo))

    def encode(self, pixels: NDArray, budget: int | None = None) -> Any:
        """uint8 pixels (B, 3, S, S), or of videos (B, F, 3, S, S) -> compressed tokens in the engine's own form.

        PyTorch's is (B, M, D).

        Raises:
            EncoderError, CaptionerError: The budget does not fit the grid, or the engine's graphs.
        """
        return encode(self.engine, pixels, self.default_budget if budget is None else budget)

    def decode(self, tokens: Any, **generation: Any) -> list[str]:
        """Compressed tokens of `encode` -> captions. `generation` overrides the settings of the model."""
        return [self.engine.text(ids) for ids in self.decode_ids(tokens, **generation)]

    def decode_ids(self, tokens: Any, watch: Watch | None = None, **generation: Any) -> list[tuple[int, ...]]:
        """Compressed tokens -> the pieces of their captions, without start, end and padding. Arguments as `write`."""
        return [_without_marks(written.ids) for written in self.write(tokens, watch, **generation)]

    def write(self, tokens: Any, watch: Watch | None = None, **generation: Any) -> list[Written]:
        """Compressed tokens -> their captions, in pieces.

        Args:
            tokens: Compressed tokens of `encode`.
            watch: Function that is called after each step with the leading pieces of the first photo. If it returns
                True, the search ends.
            generation: As for `caption`. Settings that our own search does not know go to Hugging Face's `generate`,
                which the PyTorch engine has.

        Raises:
            CaptionerError: More than one caption of each photo is asked for.
        """
        if (several := generation.get("num_return_sequences") or 1) != 1:
            raise CaptionerError(f"num_return_sequences={several}: for several captions of a photo, give count")
        search = self.engine.search(**generation)
        if search is None:
            return self.engine.generate(tokens, watch, **generation)
        return find_captions(self.engine.start(tokens, search), search, watch)

    def write_several(self, tokens: Any, **generation: Any) -> list[list[Written]]:
        """Compressed tokens -> all captions that each photo's search ended with, one per beam, the best first.

        Raises:
            CaptionerError: The settings need Hugging Face's `generate`, which gives one caption.
        """
        search = self.engine.search(**generation)
        if search is None:
            raise CaptionerError("several captions of a photo need a beam search, without further settings")
        return find_several(self.engine.start(tokens, search), search)

    def text(self, ids: Sequence[int]) -> str:
        """Pieces of a caption -> its text."""
        return self.engine.text(ids)

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
            EncoderError, CaptionerError: The budget does not fit the grid, or the engine's graphs.
        """
        batches = (photos[i : i + batch_size] for i in range(0, len(photos), batch_size))
        return [
            caption.text
            for batch in self.caption_batches(map(self.preprocess, batches), budget=budget, **generation)
            for caption in batch
        ]

    def caption_pixels(self, pixels: NDArray, budget: int | None = None, **generation: Any) -> list[Caption]:
        """Captions of one batch of uint8 pixels (B, 3, S, S), with their times."""
        return next(self.caption_batches([pixels], budget, **generation))

    def caption_batches(
        self, batches: Iterable[NDArray], budget: int | None = None, count: int = 1, **generation: Any
    ) -> Iterator[list[Caption]]:
        """Captions of batches of uint8 pixels, (B, 3, S, S) each. Several batches are in work at the same time.

        Args:
            batches: The batches; of videos, (B, F, 3, S, S) each.
            budget: Side of the compressed grid; None for the model's default.
            count: Captions for each photo, at most as many as the search has beams; see `Caption.others`. A photo has
                fewer if some of the search's captions read the same.
            generation: As for `caption`.

        Raises:
            EncoderError, CaptionerError: The budget does not fit the grid, or the engine's graphs.
        """
        side = self.default_budget if budget is None else budget
        if self.engine.lanes > 1:

            def work(engine: Engine, pixels: NDArray) -> list[Caption]:
                start, lane = time.perf_counter(), Captioner(engine)
                return lane._captions(encode(engine, pixels, side), side, count, start, **generation)

            yield from work_on(self.engine, batches, work)
            return
        start = time.perf_counter()
        for tokens in encoded_ahead(partial(encode, self.engine, budget=side), batches):
            yield self._captions(tokens, side, count, start, **generation)
            start = time.perf_counter()

    def _captions(self, tokens: Any, budget: int, count: int, start: float, **generation: Any) -> list[Caption]:
        if count > 1:
            found = self.write_several(tokens, **generation)
        else:
            found = [[written] for written in self.write(tokens, **generation)]
        ms = (time.perf_counter() - start) * 1000 / len(found)
        distinct = []
        for each in found:
            by_text: dict[str, Caption] = {}
            for written in each:
                caption = self._caption(written, budget, ms)
                by_text.setdefault(caption.text, caption)
            distinct.append([*by_text.values()])
        return [replace(best, others=tuple(others[: count - 1])) for best, *others in distinct]

    def _caption(self, written: Written, budget: int, ms: float) -> Caption:
        ids = _without_marks(written.ids)
        return Caption(self.text(ids), budget=budget, ms=ms, ids=ids, logprobs=written.logprobs)

    def stream(self, pixels: NDArray, budget: int | None = None, **generation: Any) -> Iterator[Caption]:
        """The caption of one photo as it grows: the leading beam of each step, and at the end the finished caption.

        Decoding runs in a thread and never waits for the reader. A slow reader misses steps. Decoding ends when the
        reader closes the iterator. Only the finished caption has log-probabilities.

        Args:
            pixels: Pixels of the photo, uint8 (1, 3, S, S).
            budget: Side of the compressed grid; None for the model's default.
            generation: As for `caption`.

        Raises:
            EncoderError, CaptionerError: The budget does not fit the grid, or the engine's graphs.
        """
        steps: queue.SimpleQueue[tuple[Any, bool]] = queue.SimpleQueue()  # (caption or error, whether it is last)
        side = self.default_budget if budget is None else budget
        start = time.perf_counter()
        closed = threading.Event()

        def found(written: Written) -> Caption:
            return self._caption(written, side, (time.perf_counter() - start) * 1000)

        def watch(ids: Sequence[int]) -> bool:
            steps.put((found(Written(tuple(ids), ())), False))
            return closed.is_set()

        def work() -> None:
            try:
                [written] = self.write(self.encode(pixels, side), watch, **generation)
                steps.put((found(written), True))
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


def _without_marks(ids: Sequence[int]) -> tuple[int, ...]:
    """The pieces without start, end and padding."""
    return tuple(piece for piece in ids if piece not in (PAD, START, EOS))
