"""Captions photos from a folder that `vlcap export` wrote, on a machine without PyTorch.

    pip install onnxruntime numpy pillow tokenizers
    python -m vlcap.exported FOLDER photo.jpg another.jpg

A graph can make ONNX Runtime read other files: only use folders from a source that you trust.
"""

import io
import sys
from pathlib import Path

from .captioner import Captioner
from .data.images import ImageError
from .data.names import one_line, plain_line
from .engines.onnx import OnnxEngine
from .errors import CaptionerError


def main() -> int:
    """Prints one line per photo, from the captioner's own budget if it was exported, otherwise the first that was.

    The exit status is 1 if a photo cannot be read.
    """
    if len(sys.argv) < 3 or "" in sys.argv:
        print("usage: python -m vlcap.exported FOLDER PHOTO ...", file=sys.stderr)
        return 2
    for stream in (sys.stdout, sys.stderr):  # a name may have letters that the terminal lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        engine, status = OnnxEngine(Path(sys.argv[1])), 0
        captioner = Captioner(engine)
        own = captioner.default_budget
        budget = own if own in engine.exported else engine.exported[0]
    except CaptionerError as error:
        print(error, file=sys.stderr)
        return 1
    for name in sys.argv[2:]:
        try:
            [caption] = captioner.caption([Path(name)], budget=budget)
        except ImageError as error:
            print(error, file=sys.stderr)
            status = 1
        else:
            print(f"{one_line(name)}: {plain_line(caption)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
