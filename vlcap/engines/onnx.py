"""The ONNX Runtime engine: CPUs. It starts in a fraction of a second and imports neither PyTorch nor transformers.

It runs the graphs that `vlcap export` writes (vlcap/export/graphs.py names their inputs and outputs). The decoder
reads the keys and values of earlier pieces where they lie: NumPy arrays that are bound to its inputs once. A step
returns those of the new pieces only, so nothing else is copied.

Letters: B photos   G beams of each, 1 in the first step   L layers   K heads   d width of a head
    S slots of the cache: one, then G for each piece   M compressed tokens   T pieces   V pieces of the vocabulary
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ..data.pixels import PixelConfig
from ..errors import CaptionerError
from ..files.json_file import load_json
from ..model.byte_level import is_byte_level, piece_texts
from ..model.search import Candidates, Search, Watch
from ..model.tokenizer import EOS, PAD, START, one_line
from .interface import Attention, Facts

SETTINGS = "export.json"
VERSION = 2  # of the graphs' inputs and outputs
MOST_THREADS = 4  # of a graph: its operations are too small to gain from more
MOST_LANES = 8  # the part of a search that is Python runs on one core at a time
RUNNING = Path("/proc/loadavg")  # Linux: its fourth field is the number of threads that run now
OWN_THREADS = Path("/proc/self/task")  # Linux: a folder for each thread of this process


class OnnxEngine:
    """Runs exported graphs with ONNX Runtime.

    Args:
        folder: Folder that `export_graphs` wrote. A graph can make ONNX Runtime read other files, so it must be ours.
        threads: Threads of each graph, and the number of lanes; None for the idle cores, see `idle_cores`.

    Raises:
        CaptionerError: export.json is missing, damaged, or of another version.
    """

    kind = "onnx"

    def __init__(self, folder: Path, threads: int | None = None):
        self.folder = folder
        self.settings = load_json(folder / SETTINGS, error=CaptionerError)
        if not isinstance(self.settings, dict) or self.settings.get("version") != VERSION:
            raise CaptionerError(
                f"{folder / SETTINGS}: written by another version of vlcap: export the captioner again"
            )
        facts = self.settings["facts"]
        typed = {"pixels": PixelConfig.from_dict(facts["pixels"]), "budgets": tuple(facts["budgets"])}
        self.facts = Facts(**facts | typed)
        self.exported: list[int] = self.settings["budgets"]
        self.int8 = bool(self.settings.get("int8"))
        cores = threads or idle_cores()
        self.threads = threads or min(MOST_THREADS, cores)
        self.lanes = min(MOST_LANES, cores)
        self.random = np.random.default_rng()  # of sampling
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._loading = threading.Lock()  # lanes ask for the same graph at the same time

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    @cached_property
    def _lane(self) -> OnnxEngine:
        return OnnxEngine(self.folder, threads=1)

    def lane(self) -> OnnxEngine:
        return self._lane if self.lanes > 1 else self

    @property
    def decoder(self) -> onnxruntime.InferenceSession:
        return self._session("decoder")

    def _encoder(self, budget: int) -> onnxruntime.InferenceSession:
        self._place(budget)
        return self._session(f"encoder-{budget}")

    def _place(self, budget: int) -> int:
        """The place of a budget among those that were exported."""
        if budget not in self.exported:
            known = ", ".join(map(str, self.exported))
            raise CaptionerError(f"these graphs were exported for budgets {known}, not {budget}")
        return self.exported.index(budget)

    def load(self, *budgets: int) -> None:
        """Loads the graphs of these budgets and the decoder now, and not when they are first run."""
        for budget in budgets:
            self._encoder(budget)
        _ = self.decoder

    def _session(self, name: str) -> onnxruntime.InferenceSession:
        """The graph of this name, loaded when it is first asked for."""
        with self._loading:
            if name not in self._sessions:
                self._sessions[name] = self._loaded(name)
            return self._sessions[name]

    def _loaded(self, name: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        # Otherwise the waiting threads of one session slow down the other.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        path = self.folder / f"{name}.onnx"
        try:
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common class
            raise CaptionerError(f"{path}: ONNX Runtime can't load it: {' '.join(str(error).split()):.300}") from None

    def gflops(self, budget: int) -> float:
        return self.settings["gflops"][self._place(budget)]

    def encode(self, pixels: NDArray, budget: int) -> NDArray[np.float32]:
        """uint8 pixels (B, 3, S, S) -> keys and values of their tokens for the decoder, (L, 2, B, K, M, d)."""
        return self._encoder(budget).run(["photo"], {"pixels": pixels})[0]

    def join(self, tokens: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
        layers, two, images, heads, count, width = tokens.shape
        apart = tokens.reshape(layers, two, images // frames, frames, heads, count, width)
        return apart.swapaxes(3, 4).reshape(layers, two, images // frames, heads, frames * count, width)

    def search(self, **changes: Any) -> Search | None:
        return Search.of({**self.facts.generation, **changes}, self.facts.longest + 1, self.settings["vocab_size"])

    def start(self, tokens: NDArray[np.float32], search: Search) -> OnnxDecoding:
        return OnnxDecoding(self, tokens, slots=1 + (search.max_new_tokens - 1) * search.num_beams)

    def generate(self, tokens: Any, watch: Watch | None, **generation: Any) -> NoReturn:
        asked = ", ".join(f"{name}={value}" for name, value in generation.items()) or "the captioner's own settings"
        raise CaptionerError(f"ONNX Runtime has no search with {asked}: take the engine pytorch, or other settings")

    def attention(self, pixels: NDArray, budget: int, pieces: Sequence[int]) -> Attention:
        if not self.facts.gathers:
            raise CaptionerError(f"its encoder, {self.facts.architecture}, does not gather: it has no maps to show")
        photo, gathered = self._encoder(budget).run(["photo", "gathered"], {"pixels": pixels})
        side = self.facts.grid
        read = np.zeros((0, photo.shape[4]), dtype=np.float32)
        if pieces:
            decoding = OnnxDecoding(self, photo, slots=len(pieces), with_attention=True)
            rows = []
            for piece in [START, *pieces[:-1]]:
                decoding.step([[piece]])
                rows.append(decoding.read[0, 0].copy())
            read = np.stack(rows)
        return Attention(gathered[0], read, (side, side))

    def text(self, ids: Sequence[int]) -> str:
        return one_line(self.tokenizer.decode([piece for piece in ids if piece not in (PAD, EOS)]))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        names = [self.tokenizer.id_to_token(piece) or "" for piece in ids]
        return piece_texts(names) if is_byte_level(self.tokenizer) else names


class OnnxDecoding:
    """The state of decoding: keys and values of the compressed tokens and of all pieces written so far.

    Args:
        engine: The engine.
        photo: Keys and values of the compressed tokens, (L, 2, B, K, M, d).
        slots: Number of slots that the cache needs at most.
        with_attention: Whether each step leaves its cross-attention in `read`.
    """

    def __init__(self, engine: OnnxEngine, photo: NDArray[np.float32], slots: int, with_attention: bool = False):
        self.session, self.random, self.with_attention = engine.decoder, engine.random, with_attention
        self.vocab_size = engine.settings["vocab_size"]
        self.photo = np.ascontiguousarray(photo)
        # Zeros: attention gives empty slots no weight, but no weight times NaN would be NaN.
        self.cache = np.zeros((*photo.shape[:4], slots, photo.shape[-1]), dtype=np.float32)  # (L, 2, B, K, S, d)
        self.mask = np.full((len(self), 1, 1, slots), -np.inf, dtype=np.float32)  # (B, 1, G, S): 0 for a beam's past
        self.used = self.steps = 0
        self.bound: onnxruntime.IOBinding | None = None
        self.read = np.empty(0, dtype=np.float32)

    def __len__(self) -> int:
        return self.photo.shape[2]

    def _bind(self, beams: int) -> onnxruntime.IOBinding:
        """Binds the graph to arrays of these sizes; all steps until the next fork or compaction share them."""
        layers, _, batch, heads, tokens, width = self.photo.shape
        self.pieces = np.empty((batch, beams), dtype=np.int64)
        self.position = np.empty(1, dtype=np.int64)
        self.logits = np.empty((batch, beams, self.vocab_size), dtype=np.float32)
        self.new = np.empty((layers, 2, batch, heads, beams, width), dtype=np.float32)
        inputs: dict[str, NDArray] = {"pieces": self.pieces, "position": self.position, "mask": self.mask}
        for layer in range(layers):
            inputs |= {f"photo_keys_{layer}": self.photo[layer, 0], f"photo_values_{layer}": self.photo[layer, 1]}
            inputs |= {f"keys_{layer}": self.cache[layer, 0], f"values_{layer}": self.cache[layer, 1]}
        outputs: dict[str, NDArray] = {"logits": self.logits, "new": self.new}
        if self.with_attention:
            self.read = np.empty((batch, beams, tokens), dtype=np.float32)
            outputs["read"] = self.read
        bound = self.session.io_binding()
        for name, array in inputs.items():
            bound.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            bound.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return bound

    def step(self, pieces: list[list[int]]) -> NDArray[np.float32]:
        if self.bound is None:
            self.bound = self._bind(len(pieces[0]))
        self.pieces[:], self.position[0] = pieces, self.steps
        self.session.run_with_iobinding(self.bound)
        stop = self.used + len(pieces[0])
        self.cache[:, :, :, :, self.used : stop] = self.new
        self.used, self.steps = stop, self.steps + 1
        if len(pieces[0]) == 1:
            self.mask[..., stop - 1] = 0  # the only beam's past; beams get theirs by `fork`
        return self.logits

    def candidates(
        self,
        logits: NDArray[np.float32],
        written: list[list[tuple[int, ...]]],
        scores: list[list[float]],
        search: Search,
    ) -> list[Candidates]:
        rows = [ids for beams in written for ids in beams]  # B * G
        logprobs = log_softmax(logits)
        if search.num_beams == 1:
            adjusted = search.adjust(logits.reshape(len(rows), -1), rows)  # (B, V)
            places = (
                [search.draw(row, self.random) for row in adjusted] if search.do_sample else adjusted.argmax(1).tolist()
            )
            chosen = [float(logprobs[photo, 0, place]) for photo, place in enumerate(places)]
            return [Candidates((0.0,), (place,), (each,)) for place, each in zip(places, chosen, strict=True)]
        adjusted = search.adjust(logprobs.reshape(len(rows), -1).copy(), rows).reshape(logprobs.shape)
        adjusted += np.array(scores, dtype=np.float32)[..., None]
        found = []
        for values, raw in zip(adjusted.reshape(len(written), -1), logprobs.reshape(len(written), -1), strict=True):
            best = np.argpartition(-values, 2 * search.num_beams)[: 2 * search.num_beams]
            best = best[np.lexsort((best, -values[best]))]
            found.append(Candidates(values[best].tolist(), best.tolist(), raw[best].tolist()))
        return found

    def fork(self, parents: list[list[int]]) -> None:
        """To be called after a step: beam g of photo b goes on from beam parents[b][g]."""
        chosen = np.array(parents)  # (B, G)
        before = self.mask.shape[2]
        if before == chosen.shape[1]:  # each beam of before has a slot of its own for its last piece
            own = np.arange(before)
            slots = self.used - before + own
            self.mask[:, 0, own, slots] = 0
            self.mask[:] = np.take_along_axis(self.mask, chosen[:, None, :, None], axis=2)  # in place: it is bound
        else:  # the first step: one beam becomes G
            self.mask = np.repeat(self.mask, chosen.shape[1], axis=2)
            self.bound = None

    def keep(self, photos: list[int]) -> None:
        self.photo = np.ascontiguousarray(self.photo[:, :, photos])
        self.cache = np.ascontiguousarray(self.cache[:, :, photos])
        self.mask = np.ascontiguousarray(self.mask[photos])
        self.bound = None


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-probabilities over the last dimension."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def idle_cores() -> int:
    """OMP_NUM_THREADS if it is set, otherwise the number of cores that no other process uses now, at least 1.

    Two threads on one free core are slower than one: each waits for the other at the end of every operation.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - other_work())


def other_work() -> int:
    """Threads of other processes that run or wait for a core at this moment; 0 where the system does not say."""
    try:
        running = int(RUNNING.read_text().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return 0
    return max(0, running - max(1, _own_running()))


def _own_running() -> int:
    """Threads of this process that run now, such as those that still wait after an operation of PyTorch."""
    states = []
    for thread in OWN_THREADS.glob("*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            states.append(thread.read_text().rpartition(")")[2].split()[0])
    return states.count("R")


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Writes export.json, which the engine reads first."""
    (folder / SETTINGS).write_text(json.dumps({"version": VERSION, **settings}, indent=2) + "\n", encoding="utf-8")
