"""Opens a photo: the one function that turns an image file into an RGB image. Every command and the demo use it.

    photo -> load_image -> PIL image, RGB -> pixels.py: what an encoder reads

finding.py finds the photos in folders.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import stat
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import VlcapError
from .finding import files_below, find_images, is_image_name
from .names import one_line
from .pixels import PixelConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ImageError", "PixelConfig", "find_images", "load_image", "one_line"]  # other packages import all from here

MAX_PIXELS = 80_000_000  # width x height; Pillow holds 4 bytes for each when decoded
# Lower limits for formats whose decoders take more memory or time.
MAX_PIXELS_OF = {"WEBP": 40_000_000, "AVIF": 40_000_000, "HEIF": 40_000_000, "JPEG2000": 16_000_000}
MAX_PIXELS_DRAFT = 175_000_000  # of a JPEG before it is decoded smaller; Pillow itself warns about larger ones
LARGE = 16_000_000  # pixels; larger pictures are decoded one at a time in all threads together, to bound the memory
BAND = 4_000_000  # pixels converted at a time
MAX_ASPECT = 100  # long side over short side; resizing the short side of a thinner picture would fill the memory
DRAFT_SIDE = 1024  # a JPEG is decoded at 1/2, 1/4 or 1/8 of its size while its short side keeps as many pixels

# Formats that are opened, frequent ones first. Pillow knows more, and some are programs, not pictures (EPS, PDF).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # bytes 8 to 12 of a file
# Possible values of white in a grey image of more than 8 bits: 8 bits in a wider type, 12 and 16 bits.
WHITE_OF_INTEGERS, WHITE_OF_FLOATS = (255, 4095, 65535), (1, 255)

_one_large = threading.Lock()
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(VlcapError, ValueError):
    """A picture cannot be used. The message is one line: the name of the file, then the fault."""


def load_image(
    source: str | os.PathLike | bytes | BinaryIO | Image.Image, max_pixels: int | None = None, name: str | None = None
) -> Image.Image:
    """Opens a picture as 8-bit RGB, upright by its EXIF orientation.

    Transparent parts become white, 16-bit and float greys are scaled to 8 bits, and an animation gives its first frame.
    A big JPEG comes back smaller, with a short side of at least `DRAFT_SIDE`. The source is left as it was.

    Args:
        source: A path, the bytes of an image file, a file opened for reading bytes, or a PIL image.
        max_pixels: Largest width x height accepted, read from the header before the picture is decoded; None for no
            limit but that of the format.
        name: Name of the picture in error messages; by default the path, or the kind of source.

    Returns:
        A new RGB image that holds no file and no metadata.

    Raises:
        ImageError: The file is missing, unreadable, empty, damaged, cut short, too large, or not an image.
    """
    name = name or name_of(source)
    # The filter names Pillow, so that no other warning is lost if two threads leave this block in the wrong order.
    with open_source(source, name) as opened, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        try:
            image = opened if isinstance(opened, Image.Image) else _identify(opened, name)
            _check_size(image, name, _limit_before_decoding(image, drafted=image is not opened), max_pixels)
            with _one_large if image.width * image.height > LARGE else contextlib.nullcontext():
                if image is not opened:
                    image.draft(mode=None, size=(DRAFT_SIDE, DRAFT_SIDE))
                    _check_size(image, name, MAX_PIXELS)  # a long, thin JPEG is decoded whole
                image.load()
                rgb, orientation = _rgb(image), _orientation(image)
                del image  # frees the decoded picture before the next copy is made
                return _turned(rgb, orientation)
        except ImageError:
            raise
        except Exception as error:  # a damaged file makes Pillow raise nearly everything: SyntaxError, IndexError, ...
            raise ImageError(f"{name}: {_decoding_problem(error, opened)}") from error


def name_of(source: str | os.PathLike | bytes | BinaryIO | Image.Image) -> str:
    """Name of a source for an error message, on one line whatever characters its path has."""
    if isinstance(source, bytes):
        return "image bytes"
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
    else:
        path = getattr(source, "filename", None) or getattr(source, "name", None) or f"image ({type(source).__name__})"
    return one_line(path)


def open_source(
    source: str | os.PathLike | bytes | BinaryIO | Image.Image, name: str
) -> contextlib.AbstractContextManager[BinaryIO | Image.Image]:
    """Opens a path or bytes for reading, to be closed afterwards. A source that the caller has opened is passed on."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, (str, os.PathLike)):
        if not isinstance(source, Image.Image) and not hasattr(source, "read"):
            raise TypeError(f"load_image takes a path, bytes, a binary file or a PIL image, not {source!r}")
        return contextlib.nullcontext(source)
    try:
        if stat.S_IFMT(os.stat(source).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise ImageError(f"{name}: a device or a pipe, not an image file")  # opening a pipe could wait forever
        return open(source, "rb")
    except ImageError:
        raise
    except FileNotFoundError:
        problem = "no such file"
    except IsADirectoryError:
        images = any(is_image_name(file.name) for file in files_below(Path(source), problems=[]))
        problem = "a folder, not an image file" if images else "a folder without images"
    except PermissionError:
        problem = "no permission to read this file"
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        problem = f"cannot be opened ({getattr(error, 'strerror', None) or error})"
    raise ImageError(f"{name}: {problem}")


def _identify(file: BinaryIO, name: str) -> Image.Image:
    """Reads the header of a file. The package for HEIF is only needed for a file of that format."""
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        if not _is_heif(file):
            raise
    try:
        import pillow_heif
    except ImportError:
        raise ImageError(f"{name}: reading HEIC needs the package pillow-heif: pip install 'vlcap[heic]'") from None
    pillow_heif.register_heif_opener()
    file.seek(0)
    return Image.open(file, formats=("HEIF",))


def _is_heif(file: BinaryIO) -> bool:
    if not file.seekable():
        return False
    file.seek(0)
    header = file.read(12)
    return header[4:8] == b"ftyp" and header[8:] in HEIF_BRANDS


def _limit_before_decoding(image: Image.Image, drafted: bool) -> int:
    """Largest number of pixels that a header may promise. JPEGs can be decoded smaller, but not progressive ones."""
    if drafted and image.format in ("JPEG", "MPO") and not image.info.get("progressive"):
        return MAX_PIXELS_DRAFT
    return MAX_PIXELS_OF.get(image.format or "", MAX_PIXELS)


def _check_size(image: Image.Image, name: str, limit: int, callers: int | None = None) -> None:
    """Raises ImageError if the picture exceeds the limit or the caller's limit, or is too thin."""
    limit = limit if callers is None else min(limit, callers)
    if problem := size_problem(*image.size, max_pixels=limit):
        raise ImageError(f"{name}: {problem}")


def size_problem(width: int, height: int, max_pixels: int) -> str | None:
    """The reason to refuse a picture of this size, or None."""
    if width * height > max_pixels:
        return f"too large, {width} x {height} pixels (the limit is {max_pixels / 1e6:g} million): make it smaller"
    if min(width, height) < 1 or max(width, height) > MAX_ASPECT * min(width, height):
        return f"not a usable shape, {width} x {height} pixels (the limit is {MAX_ASPECT} to 1): crop it"
    return None


def _decoding_problem(error: Exception, opened: BinaryIO | Image.Image) -> str:
    """The fault that Pillow found while it read `opened`, in one line for a person."""
    if isinstance(error, UnidentifiedImageError):
        if isinstance(opened, io.IOBase) and opened.seekable() and opened.seek(0, os.SEEK_END) == 0:
            return "the file is empty"
        return f"not an image, or damaged at its start, or none of {', '.join(FORMATS)}, HEIC"
    if isinstance(error, Image.DecompressionBombError):
        return "too large: make it smaller"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it: make it smaller"
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return "cut short, the end of the file is missing: copy or download it again"
    return f"damaged, it cannot be decoded ({type(error).__name__}: {' '.join(str(error).split())})"


def _rgb(image: Image.Image) -> Image.Image:
    """Converts a decoded image of any mode to a new 8-bit RGB image without metadata, band by band to save memory."""
    rgb = Image.new(mode="RGB", size=image.size, color="white")
    rows = max(1, BAND // image.width)
    bands = [(0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)]
    extremes = _extremes(image, bands) if image.mode.startswith(("I", "F")) else None
    for box in bands:
        band = image if len(bands) == 1 else image.crop(box)
        if extremes:
            band = _eight_bit(band, *extremes)
        elif band.has_transparency_data:
            band = band.convert("RGBA")
        rgb.paste(band.convert("RGB"), box, mask=band if band.mode == "RGBA" else None)
    return rgb


def _extremes(image: Image.Image, bands: list[tuple[int, int, int, int]]) -> tuple[float, float]:
    """The values that become 0 and 255 in a grey image of more than 8 bits.

    White is the smallest usual level that no value exceeds: 8, 12 or 16 bits for integers, 1 or 255 for floats. If
    none fits, the range goes from the smallest to the largest value.
    """
    low, high = math.inf, -math.inf
    for box in bands:
        values = _values(image.crop(box))
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    for white in WHITE_OF_FLOATS if image.mode == "F" else WHITE_OF_INTEGERS:
        if low >= 0 and high <= white:
            return 0, white
    return low, high


def _eight_bit(image: Image.Image, low: float, high: float) -> Image.Image:
    """Scales a grey image of more than 8 bits to mode L. Pillow's own conversion cuts values off at 255."""
    import numpy as np

    with np.errstate(all="ignore"):
        scaled = (_values(image) - low) * (255 / max(high - low, math.ulp(1.0)))
        return Image.fromarray((scaled + 0.5).astype(np.uint8))


def _values(image: Image.Image) -> NDArray:
    """The values of a grey image, (height, width), float32. Values that are not numbers become 0."""
    import numpy as np

    return np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of a decoded image, 1 (upright) to 8."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a photo with damaged EXIF is still a photo
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """Turns or mirrors an image upright."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image
