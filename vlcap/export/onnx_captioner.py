"""Captions by ONNX Runtime, without PyTorch, from the folder that `vlcap export FOLDER` wrote.

    pip install onnxruntime numpy pillow tokenizers
    python -m vlcap.export.onnx_captioner FOLDER photo.jpg another.jpg

Of vlcap, it only imports plain Python: opening a photo, and the search for captions.
"""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

from ..data.images import ImageError, load_image
from ..data.names import one_line, plain_line
from ..errors import CaptionerError
from ..files.json_file import load_json
from ..model.search import Search


class OnnxCaptioner:
    """Photos to captions.

    Args:
        folder: Folder that `vlcap export` wrote.

    Raises:
        CaptionerError: export.json is missing or damaged.

    Letters: G beams of a photo, 1 at first   V pieces of the vocabulary   S, L, K, M, d, T as in onnx_export.py
    """

    def __init__(self, folder: Path):
        self.settings = load_json(folder / "export.json", error=CaptionerError)
        self.search = Search(**self.settings["search"])
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        options = onnxruntime.SessionOptions()
        # Otherwise the waiting threads of one session slow down the other.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
            for name in ("encoder", "decoder")
        )

    def caption(self, photo: Path) -> str:
        """The caption of a photo, in any form that `load_image` takes."""
        pieces = self.find(self.encode(self.read(photo)[None]))
        return self.tokenizer.decode(list(pieces), skip_special_tokens=True).strip()

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 pixels (B, 3, S, S) -> keys and values of their tokens for the decoder, (L, 2, B, K, M, d)."""
        [photo] = self.encoder.run(None, {"pixels": pixels})
        return photo

    def find(self, photo: np.ndarray) -> tuple[int, ...]:
        """Keys and values of one photo (L, 2, 1, K, M, d) -> the pieces of its caption, start and end included."""
        past = np.zeros_like(photo[..., :0, :])
        found: Any = self.search.start()
        beams = 1  # all beams are the same until the first piece is written
        while not found.done:
            running = np.array(found.running[:beams])  # (G, T + 1)
            logits, past = self.decoder.run(None, {"pieces": running[:, -1], "past": past, "photo": photo})
            if self.search.num_beams == 1:
                scores = self.search.adjust(logits, found.running)
                found.advance([0.0], [int(scores.argmax())], vocab_size=scores.shape[1])
                continue
            scores = self.search.adjust(log_softmax(logits), found.running[:beams])
            scores = scores + np.array(found.scores[:beams])[:, None]  # (G, V)
            best = np.argpartition(-scores, 2 * self.search.num_beams, axis=None)[: 2 * self.search.num_beams]
            best = best[np.argsort(-scores.flat[best], kind="stable")]
            found.advance(scores.flat[best].tolist(), best.tolist(), vocab_size=scores.shape[1])
            past = past[:, :, found.parents]
            if beams == 1:
                photo, beams = np.repeat(photo, self.search.num_beams, axis=2), self.search.num_beams
        return found.best

    def read(self, photo: Path) -> np.ndarray:
        """A photo -> uint8 pixels (3, S, S)."""
        image, cut = load_image(photo), self.settings["pixels"]
        side = int(cut["size"] / cut["crop_pct"])
        if cut["crop_mode"] == "squash":
            width = height = side
        else:  # the short side
            short = min(image.size)
            width, height = (side if length == short else int(side * length / short) for length in image.size)
        image = image.resize((width, height), Image.Resampling[cut["interpolation"].upper()])
        left, top = (round((length - cut["size"]) / 2) for length in (width, height))
        image = image.crop((left, top, left + cut["size"], top + cut["size"]))
        return np.asarray(image).transpose(2, 0, 1)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities over the last dimension."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def main() -> int:
    """Prints one line per photo. The exit status is 1 if a photo cannot be read."""
    if len(sys.argv) < 3 or "" in sys.argv:
        print("usage: python -m vlcap.export.onnx_captioner FOLDER PHOTO ...", file=sys.stderr)
        return 2
    for stream in (sys.stdout, sys.stderr):  # a name may have letters that the terminal lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        captioner, status = OnnxCaptioner(Path(sys.argv[1])), 0
    except CaptionerError as error:
        print(error, file=sys.stderr)
        return 1
    for name in sys.argv[2:]:
        try:
            print(f"{one_line(name)}: {plain_line(captioner.caption(Path(name)))}")
        except ImageError as error:
            print(error, file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
