"""A static web page that captions photos in the browser alone: `vlcap export --web FOLDER` writes it.

The files of web/ are the page. Beside them lie the captioner's graphs and weights, ONNX Runtime for browsers
(runtime.py), example photos, licenses, and site.json, which says what is known of the captioner. The page sends nothing
and loads nothing from anywhere else, so any web server can serve the folder.

site.json has the settings of the search, of the pixels and of the tokenizer under the names of `Search`, `PixelConfig`
and vlcap/model/tokenizer.py, and for each large file its bytes, its digest, and the parts that it is stored in.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from tokenizers import decoders

from ..engines.onnx import OnnxEngine
from ..errors import CaptionerError
from ..files.writing import digest_file, written_whole
from ..model.byte_level import BYTES, is_byte_level
from ..model.tokenizer import EOS, PAD, START, UNK
from .runtime import FILES as RUNTIME
from .runtime import VERSION

PAGE = Path(str(files("vlcap") / "export" / "web"))
KIND = "web page"  # of the folder, for its marker
CARD = "README.md"  # of a captioner folder
FILTERS = ("box", "bilinear", "hamming", "bicubic", "lanczos")  # those of web/resize.js
PART = 16 * 1024**2  # bytes; some hosts refuse files of more than 25 MB
# Names on the page of the two files of ONNX Runtime. Some web servers do not know .mjs.
NAMES = dict(zip(RUNTIME, ("onnxruntime-web.js", "onnxruntime-web.wasm"), strict=True))


@dataclass(frozen=True)
class Example:
    """A photo that the page offers.

    Attributes:
        name: What it is called on the page.
        source: Who made it, and its license.
        path: Its file.
    """

    name: str
    source: str
    path: Path


@dataclass(frozen=True)
class About:
    """What the page says of its captioner.

    Attributes:
        name: Name of the captioner; "" for the bundled one.
        judged: How often it is right, in a sentence; "" if nobody has counted.
        card: Its card with its terms of use, Markdown; None if it has none.
        examples: Photos that the page offers.
    """

    name: str = ""
    judged: str = ""
    card: Path | None = None
    examples: Sequence[Example] = ()


def check_engine(engine: OnnxEngine, budgets: Sequence[int]) -> None:
    """Refuses a captioner that the page's JavaScript cannot follow.

    Raises:
        CaptionerError: Its search, preprocessing or tokenizer is another, it captions videos, or a budget was not
            exported.
    """
    search, pixels = engine.search(), engine.facts.pixels
    if engine.facts.frames:
        raise CaptionerError("the web page captions photos, and this captioner's encoder reads clips of videos")
    if search is None or search.do_sample:
        raise CaptionerError(
            "the web page has greedy and beam search only: change the captioner's generation_config.json"
        )
    if not pixels.is_plain or pixels.interpolation not in FILTERS:
        raise CaptionerError(
            f"the web page does not support its preprocessing, {pixels.crop_mode} with {pixels.interpolation}: "
            f"the filters are {', '.join(FILTERS)}"
        )
    if not isinstance(engine.tokenizer.decoder, decoders.Metaspace | decoders.ByteLevel):
        raise CaptionerError("the web page does not support its tokenizer: it has to be SentencePiece's or byte-level")
    for budget in budgets:
        engine.gflops(budget)


def write_site(folder: Path, engine: OnnxEngine, runtime: Path, budgets: Sequence[int], about: About) -> int:
    """Writes the page.

    Args:
        folder: Folder for it: a new one, an empty one, or one that an earlier call wrote.
        engine: The captioner.
        runtime: Folder of ONNX Runtime for browsers, from `runtime_folder`.
        budgets: Sides of the compressed grid that the page offers.
        about: What the page says of the captioner.

    Returns:
        Bytes that a visitor's browser loads before the first caption.

    Raises:
        CaptionerError: The page cannot follow the captioner.
        NotOursError: The folder holds files that vlcap did not write there.
        OSError: The folder cannot be written.
    """
    check_engine(engine, budgets)
    with written_whole(folder, KIND) as new:
        for path in PAGE.iterdir():
            if path.is_file():
                shutil.copyfile(path, new / path.name)
        shutil.copyfile(runtime / next(iter(RUNTIME)), new / NAMES[next(iter(RUNTIME))])
        graphs = {name: _weights_of(engine.folder / f"{name}.onnx") for name in _graphs(budgets)}
        large = {NAMES[name]: runtime / name for name in list(RUNTIME)[1:]}
        large |= {f"{name}.onnx": engine.folder / f"{name}.onnx" for name in graphs}
        large |= {name: engine.folder / name for weights in graphs.values() for name in weights}
        stored = {name: _store(path, new, name) for name, path in large.items()}
        settings = _settings(engine, sorted(budgets), about) | {
            "graphs": graphs,
            "files": stored,
            "examples": _examples(about.examples, new),
            "links": _licenses(about, new),
        }
        (new / "site.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
        first = ("index.html", "style.css", "site.json", *(path.name for path in new.glob("*.js")))
        shown = sum((new / name).stat().st_size for name in first)
        shown += sum((new / each["file"]).stat().st_size for each in settings["examples"])
    return shown + sum(each["bytes"] for each in stored.values())


def _graphs(budgets: Sequence[int]) -> list[str]:
    return ["decoder", *(f"encoder-{budget}" for budget in sorted(budgets))]


def _weights_of(graph: Path) -> list[str]:
    """Names of the files beside a graph that its weights lie in."""
    tensors = onnx.load(graph, load_external_data=False).graph.initializer
    return sorted({each.value for tensor in tensors for each in tensor.external_data if each.key == "location"})


def _store(path: Path, new: Path, name: str) -> dict[str, Any]:
    """Copies a large file, in parts that every host takes, and says what they are."""
    size = path.stat().st_size
    parts: list[tuple[str, int]] = []
    with open(path, "rb") as file:
        while content := file.read(PART):
            part = name if size <= PART else f"{name}.{len(parts) + 1}"
            (new / part).write_bytes(content)
            parts.append((part, len(content)))
    return {"bytes": size, "digest": digest_file(path)[:16], "parts": parts}


def _settings(engine: OnnxEngine, budgets: Sequence[int], about: About) -> dict[str, Any]:
    facts, search = engine.facts, engine.search()
    assert search is not None  # checked
    trained = f"trained on {facts.trained_on}" if facts.trained_on else "its folder does not say what it was trained on"
    return {
        "budgets": list(budgets),
        "budget": facts.budget if facts.budget in budgets else budgets[-1],
        "gflops": [engine.gflops(budget) for budget in budgets],
        "grid": facts.grid,
        "pixels": facts.pixels.to_dict(),
        "search": asdict(search),
        "vocab_size": engine.settings["vocab_size"],
        "pieces": pieces_of(engine),
        "judged": about.judged,
        "description": (
            f"The captioner {about.name or 'that comes with vlcap'}: {facts.parameters / 1e6:.3g} million parameters, "
            f"reads photos at {facts.pixels.size} x {facts.pixels.size} pixels, {trained}. "
            f"ONNX Runtime Web {VERSION} runs it. The page was made by vlcap (Apache-2.0)."
        ),
    }


def pieces_of(engine: OnnxEngine) -> dict[str, Any]:
    """What web/tokenizer.js needs: the text of each piece by its id, the ids of marks, the pieces without text, and the
    byte of each letter of a byte-level vocabulary."""
    added: Mapping[int, Any] = engine.tokenizer.get_added_tokens_decoder()
    return {
        "texts": [engine.tokenizer.id_to_token(piece) or "" for piece in range(engine.settings["vocab_size"])],
        "marks": {"pad": PAD, "eos": EOS, "unk": UNK, "start": START},
        "bytes": BYTES if is_byte_level(engine.tokenizer) else None,
        "silent": sorted({PAD, EOS, *(piece for piece, token in added.items() if token.special)}),
    }


def _examples(examples: Sequence[Example], new: Path) -> list[dict[str, str]]:
    entries = []
    for example in examples:
        name = f"example-{example.path.name}"
        shutil.copyfile(example.path, new / name)
        entries.append({"name": example.name, "source": example.source, "file": name})
    return entries


def _licenses(about: About, new: Path) -> list[dict[str, str]]:
    """Copies the terms of what the page contains, for links at its end."""
    package = Path(onnxruntime.__file__).parent  # the same project; the package for browsers holds no license text
    copies = {
        "onnxruntime-license.txt": ("License of ONNX Runtime", package / "LICENSE"),
        "onnxruntime-notices.txt": ("Its third-party notices", package / "ThirdPartyNotices.txt"),
    }
    if about.card is not None:
        copies = {"captioner.md": ("The captioner's card, with its terms of use", about.card), **copies}
    for name, (_, path) in copies.items():
        shutil.copyfile(path, new / name)
    return [{"text": text, "file": name} for name, (text, _) in copies.items()]
