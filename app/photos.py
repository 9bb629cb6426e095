"""Photos as the servers open them: large ones are made smaller at once, and their memory is given back.

The demo and `vlcap serve` use it: a stranger's photos come one after the other, for as long as they run.
"""

import contextlib
import ctypes
import io
import warnings
from pathlib import Path

from PIL import Image

from vlcap.data.images import FORMATS, LARGE, load_image

SIDE = 2048  # pixels of the long side of a photo that was made smaller; far more than an encoder reads
DRAFTED = 8  # a JPEG of many pixels is decoded in about an eighth of the time of other formats


def open_photo(source: Path | bytes, name: str) -> Image.Image:
    """The photo as an RGB image, at most `LARGE` pixels: everything after it, such as showing it, costs little.

    Raises:
        ImageError: As `load_image`.
    """
    photo = load_image(source, name=name)
    if photo.width * photo.height > LARGE:
        photo.thumbnail((SIDE, SIDE), reducing_gap=2)
        _give_back()
    return photo


def pixels_to_decode(source: Path | bytes) -> int:
    """What a photo costs to decode, as the number of pixels of a PNG that costs as much; 0 for an unreadable one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warning of large pictures
            opened = io.BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(opened, formats=FORMATS) as image:
                pixels = image.width * image.height
                return pixels // DRAFTED if image.format in ("JPEG", "MPO") else pixels
    except Exception:  # `open_photo` says what is wrong with it
        return 0


def _give_back() -> None:
    """Returns freed memory to the system. The C library keeps it otherwise, gigabytes of it after a few pictures."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
