"""Image files to pixels: the one function that opens a photo, and the one place that knows how an encoder wants it.

Used by every command that reads photos (`vlcap caption`, `cache`, `train`, `compare`, `demo`), through `load_image`,
`find_images` and `PixelConfig`.

    photo -> load_image -> PIL image, RGB -> eval_transform -> uint8 (3,S,S) -> normalize -> float32 (B,3,S,S)

Letters: B pictures in a batch, S side of the square picture an encoder reads, 3 colour channels (red, green, blue).
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import stat
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import VlcapError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

MAX_PIXELS = 80_000_000  # width x height; decoded, Pillow holds 4 bytes for each
# Whose decoders take more, or longer.
MAX_PIXELS_OF = {"WEBP": 40_000_000, "AVIF": 40_000_000, "HEIF": 40_000_000, "JPEG2000": 16_000_000}
MAX_PIXELS_DRAFT = 175_000_000  # of a JPEG before it is decoded smaller; Pillow itself warns of what is larger
LARGE = 16_000_000  # pixels of what is decoded one at a time, whatever the number of threads: so memory stays bounded
BAND = 4_000_000  # pixels converted at a time
MAX_ASPECT = 100  # long side over short side; resizing the short side of a thinner picture would fill the memory
DRAFT_SIDE = 1024  # a JPEG is decoded at 1/2, 1/4 or 1/8 of its size while its short side keeps as many pixels

# What is opened, the frequent ones first. Pillow knows more, and some are programs rather than pictures (EPS, PDF).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # bytes 8 to 12 of a file
# What is taken for an image in a folder or an archive: all suffixes of these formats, and of HEIF.
SUFFIXES = {
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".mpo",
    ".png",
    ".apng",
    ".webp",
    ".gif",
    ".bmp",
    ".dib",
    ".tif",
    ".tiff",
    ".avif",
    ".avifs",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".pfm",
    ".jp2",
    ".j2k",
    ".j2c",
    ".jpc",
    ".jpf",
    ".jpx",
    ".heic",
    ".heics",
    ".heif",
    ".heifs",
    ".hif",
}
# Pictures that are not read: a folder of which some are left out was not captioned whole.
UNREAD_SUFFIXES = {
    ".jxl",
    ".svg",
    ".psd",
    ".eps",
    ".ico",
    ".tga",
    ".cr2",
    ".cr3",
    ".crw",
    ".nef",
    ".nrw",
    ".arw",
    ".srf",
    ".sr2",
    ".dng",
    ".orf",
    ".rw2",
    ".raf",
    ".pef",
    ".srw",
    ".x3f",
    ".raw",
}
# Levels of white that greys of more than 8 bits are measured by: 8 bits in a wider type, 12 and 16 bits.
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
    """A picture that cannot be used. The message is one line: the file's name, then what is wrong with it."""


def load_image(
    source: str | os.PathLike | bytes | BinaryIO | Image.Image, max_pixels: int | None = None, name: str | None = None
) -> Image.Image:
    """Opens a picture as 8-bit RGB, turned as its EXIF says.

    Transparency is laid on white, 16-bit and float greys are scaled to 8 bits, animations give their first frame. Big
    JPEGs come back smaller, their short side no smaller than `DRAFT_SIDE`. The source is left as it was.

    Args:
        source: A path, the bytes of an image file, a file opened for reading bytes, or a PIL image.
        max_pixels: Largest width x height accepted, judged from the file's header before anything is decoded; None
            for no limit but the format's own.
        name: What to call the picture in an error message; by default the path, or the kind of source.

    Returns:
        A new RGB image that holds no file and no metadata.

    Raises:
        ImageError: The file is missing, unreadable, empty, damaged, cut short, too large or no image.
    """
    name = name or _name_of(source)
    # The filter names Pillow so that, should two threads leave here in the wrong order, nobody else's warning is lost.
    with _open(source, name) as opened, warnings.catch_warnings():
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
                del image  # what was decoded goes before the next copy comes
                return _turned(rgb, orientation)
        except ImageError:
            raise
        except Exception as error:  # a damaged file makes Pillow raise nearly everything: SyntaxError, IndexError, ...
            raise ImageError(f"{name}: {_decoding_problem(error, opened)}") from error


@dataclass(frozen=True)
class Found:
    """What some files and folders of a user's hold.

    Attributes:
        images: In the order given, each once.
        others: Files in the folders that no image reader takes, by their suffix: passed over.
        problems: One line for each folder that can't be read.
    """

    images: list[Path]
    others: list[Path]
    problems: list[str]

    @property
    def complete(self) -> bool:
        """Whether no picture was left out."""
        return not self.problems and not any(path.suffix.lower() in UNREAD_SUFFIXES for path in self.others)

    def remarks(self) -> list[str]:
        """All that was left out, a line for each folder that can't be read and one for the files."""
        return [*self.problems, *([passed_over(self.others)] if self.others else [])]


def find_images(paths: Iterable[str | os.PathLike]) -> Found:
    """Finds the image files that a user means by some files and folders.

    A folder stands for the files in it and below it that have an image's suffix, in the order of their paths. Hidden
    files and folders are not looked at. A link to a folder is followed once, unless it leads to a folder above it. A
    file named by the user is taken whatever its suffix. A path that does not exist, and a folder without images, is
    listed as it is: `load_image` then says what is wrong with it.
    """
    images: dict[str, Path] = {}
    others: dict[str, Path] = {}
    problems: list[str] = []
    for path in map(Path, paths):
        known = len(problems)
        below = _files_below(path, problems) if os.path.isdir(path) else []
        pictures = [file for file in below if is_image_name(file.name)]
        others |= {os.path.abspath(file): file for file in below if not is_image_name(file.name)}
        for image in pictures or ([path] if len(problems) == known else []):
            images.setdefault(os.path.abspath(image), image)
    return Found(list(images.values()), [path for key, path in others.items() if key not in images], problems)


def is_image_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def passed_over(files: Sequence[str | os.PathLike]) -> str:
    """Files that are no images by their names, counted by suffix, in one line."""
    suffixes = Counter(os.path.splitext(file)[1].lower() or "without a suffix" for file in files)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(8))
    more = f" and {len(suffixes) - 8} other kinds" if len(suffixes) > 8 else ""
    count = "1 file that is not an image" if len(files) == 1 else f"{len(files)} files that are not images"
    return f"skipped {count} of a known format: {one_line(kinds)}{more} (first: {one_line(os.fspath(files[0]))})"


@dataclass(frozen=True)
class PixelConfig:
    """How an encoder wants its pictures: their size, how a photo is cut to it, and the scale of the pixel values.

    Attributes:
        size: S, the side of the square picture in pixels.
        mean: Mean of each colour channel, for values from 0 to 1.
        std: Standard deviation of each colour channel, for values from 0 to 1.
        interpolation: timm's name of the resizing filter.
        crop_pct: Part of the resized picture's side that the crop keeps; 1 crops nothing but what `crop_mode` demands.
        crop_mode: timm's: "center" keeps the shape and cuts the long side, "squash" changes the shape and, with
            crop_pct 1, keeps the whole picture, "border" keeps both and fills up with the mean colour.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"

    def __post_init__(self):
        # JSON brings lists; tuples keep the configuration hashable and equal to the one that was saved.
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if self.size < 1:
            raise ValueError(f"size must be a positive number of pixels, got {self.size}")
        scales = (*self.mean, *self.std)
        if not all(isinstance(each, (int, float)) and abs(each) < math.inf for each in scales) or not (
            len(self.mean) == len(self.std) == 3 and min(self.std) > 0
        ):
            raise ValueError(f"mean and std must be 3 numbers, std positive, got {self.mean} and {self.std}")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct must be above 0 and at most 1, got {self.crop_pct}")
        # timm takes any other word for "center" without saying so.
        if self.crop_mode not in ("center", "squash", "border"):
            raise ValueError(f"crop_mode must be center, squash or border, got {self.crop_mode!r}")

    @classmethod
    def from_pretrained_cfg(cls, cfg: Mapping) -> PixelConfig:
        """Reads a timm model's `pretrained_cfg`; what it leaves out gets timm's default.

        Raises:
            ValueError: `input_size` is not (3, S, S), or another value is out of range.
        """
        from timm.data import resolve_data_config

        # timm refuses an empty cfg; one key that it does not read is enough.
        resolved = resolve_data_config(pretrained_cfg={"url": "", **cfg})
        channels, height, width = resolved.pop("input_size")
        if channels != 3 or height != width:
            raise ValueError(f"only square RGB input is supported, input_size is {(channels, height, width)}")
        return cls(size=height, **resolved)

    @classmethod
    def from_dict(cls, values: Mapping) -> PixelConfig:
        """Reads what `to_dict` gave, also after a journey through JSON.

        Raises:
            ValueError: A key is missing, unknown, or its value out of range.
        """
        expected = {field.name for field in fields(cls)}
        if values.keys() != expected:
            raise ValueError(f"pixel settings must have the keys {sorted(expected)}, got {sorted(values)}")
        return cls(**values)

    def to_dict(self) -> dict[str, int | float | str | list[float]]:
        """Gives the fields by name, in types that JSON keeps."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    def eval_transform(self) -> Callable[[Image.Image], Tensor]:
        """Makes the fixed transform for evaluation and captioning: an RGB image to a uint8 tensor (3,S,S)."""
        from timm.data import create_transform

        return create_transform(
            input_size=(3, self.size, self.size),
            is_training=False,
            interpolation=self.interpolation,
            mean=self.mean,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
            normalize=False,
        )

    def train_transform(
        self,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        hflip: float = 0.5,
        auto_augment: str | None = None,
        color_jitter: float | tuple[float, ...] | None = None,
    ) -> Callable[[Image.Image], Tensor]:
        """Makes a random transform for training: an RGB image to a uint8 tensor (3,S,S).

        Args:
            scale: Smallest and largest part of the picture's area that a random crop takes.
            ratio: Smallest and largest width over height of that crop, before it is resized to a square.
            hflip: Probability of mirroring left and right.
            auto_augment: timm's policy text such as "rand-m9-mstd0.5-inc1", or none.
            color_jitter: Strength of random brightness, contrast and saturation; timm leaves it out beside a policy.
        """
        from timm.data import create_transform

        return create_transform(
            input_size=(3, self.size, self.size),
            is_training=True,
            interpolation=self.interpolation,
            mean=self.mean,
            scale=scale,
            ratio=ratio,
            hflip=hflip,
            auto_augment=auto_augment,
            color_jitter=color_jitter,
            normalize=False,
        )

    def normalize(self, pixels: Tensor) -> Tensor:
        """Scales pixel values as the encoder expects them: (value / 255 - mean) / std.

        Args:
            pixels: uint8 (B,3,S,S) or (3,S,S), values 0 to 255.

        Returns:
            float32, same shape and device.
        """
        import torch

        # One constant tensor, sent without waiting: a blocking copy would hold up the accelerator at every batch.
        constants = torch.tensor([self.mean, self.std], dtype=torch.float32).to(pixels.device, non_blocking=True)
        mean, std = constants[:, :, None, None]  # (3,1,1) each
        return (pixels.to(torch.float32) / 255 - mean) / std


def one_line(path: object) -> str:
    """A path as it is if that makes one line, else with what would break the line escaped."""
    return path if (path := str(path)).isprintable() else repr(path)


def _name_of(source: str | os.PathLike | bytes | BinaryIO | Image.Image) -> str:
    """Names a source for an error message, on one line whatever characters its path holds."""
    if isinstance(source, bytes):
        return "image bytes"
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
    else:
        path = getattr(source, "filename", None) or getattr(source, "name", None) or f"image ({type(source).__name__})"
    return one_line(path)


def _open(
    source: str | os.PathLike | bytes | BinaryIO | Image.Image, name: str
) -> contextlib.AbstractContextManager[BinaryIO | Image.Image]:
    """Opens a path or bytes for reading, to be closed again; passes on what the caller has opened."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, (str, os.PathLike)):
        if not isinstance(source, Image.Image) and not hasattr(source, "read"):
            raise TypeError(f"load_image takes a path, bytes, a binary file or a PIL image, not {source!r}")
        return contextlib.nullcontext(source)
    try:
        if stat.S_IFMT(os.stat(source).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise ImageError(f"{name}: a device or a pipe, not an image file")  # opening a pipe could wait for ever
        return open(source, "rb")
    except ImageError:
        raise
    except FileNotFoundError:
        problem = "no such file"
    except IsADirectoryError:
        images = any(is_image_name(file.name) for file in _files_below(Path(source), problems=[]))
        problem = "a folder, not an image file" if images else "a folder without images"
    except PermissionError:
        problem = "no permission to read this file"
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        problem = f"cannot be opened ({getattr(error, 'strerror', None) or error})"
    raise ImageError(f"{name}: {problem}")


def _identify(file: BinaryIO, name: str) -> Image.Image:
    """Reads a file's header; HEIF's reader is only asked for by a file of that format."""
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
    """Pixels that a header may promise. A JPEG's decoder can leave most of them out, unless it is progressive."""
    if drafted and image.format in ("JPEG", "MPO") and not image.info.get("progressive"):
        return MAX_PIXELS_DRAFT
    return MAX_PIXELS_OF.get(image.format or "", MAX_PIXELS)


def _check_size(image: Image.Image, name: str, limit: int, callers: int | None = None) -> None:
    """Raises ImageError if there are more pixels than a limit and the caller's allow, or the shape is of no use."""
    limit = limit if callers is None else min(limit, callers)
    if problem := _size_problem(*image.size, max_pixels=limit):
        raise ImageError(f"{name}: {problem}")


def _size_problem(width: int, height: int, max_pixels: int) -> str | None:
    """Says why a picture of this size is refused, if it is."""
    if width * height > max_pixels:
        return f"too large, {width} x {height} pixels (the limit is {max_pixels / 1e6:g} million): make it smaller"
    if min(width, height) < 1 or max(width, height) > MAX_ASPECT * min(width, height):
        return f"not a usable shape, {width} x {height} pixels (the limit is {MAX_ASPECT} to 1): crop it"
    return None


def _decoding_problem(error: Exception, opened: BinaryIO | Image.Image) -> str:
    """Puts what Pillow raised while reading `opened` into words for a person, on one line."""
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
    """Converts a decoded image of any mode to a new 8-bit RGB one without metadata, band by band to save memory."""
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
    """The values of a grey image of wider values that become 0 and 255.

    White is the smallest of the usual levels that no value exceeds: integers are taken as 8-bit, 12-bit or 16-bit,
    floats as 0 to 1 or 0 to 255. Other values are stretched from the smallest to the largest.
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
    """Scales a grey image of wider values to 8 bits, mode L; Pillow's own conversion cuts them off at 255."""
    import numpy as np

    with np.errstate(all="ignore"):
        scaled = (_values(image) - low) * (255 / max(high - low, math.ulp(1.0)))
        return Image.fromarray((scaled + 0.5).astype(np.uint8))


def _values(image: Image.Image) -> NDArray:
    """(height, width), float32; what is not a number is 0."""
    import numpy as np

    return np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)


def _orientation(image: Image.Image) -> int:
    """Reads the EXIF orientation, 1 (upright) to 8, of a decoded image."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a photo whose EXIF is damaged is still a photo
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """Turns or mirrors an image upright."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _files_below(folder: Path, problems: list[str]) -> list[Path]:
    """Lists the files in and below a folder that are not hidden, sorted; adds a line for what can't be listed."""
    files: list[Path] = []
    top, listed = os.path.realpath(folder), set()  # real paths
    waiting = [str(folder)]  # links after the folders themselves, so that a photo keeps its own path

    def refused(error: OSError) -> None:
        problems.append(f"{one_line(error.filename)}: this folder cannot be read ({error.strerror})")

    while waiting:
        for parent, folders, names in os.walk(waiting.pop(0), onerror=refused):
            real = os.path.realpath(parent)
            if real in listed:
                folders.clear()
                continue
            listed.add(real)
            files += [Path(parent, name) for name in names if not name.startswith(".")]
            seen = [name for name in folders if not name.startswith(".")]
            folders[:] = [name for name in seen if not os.path.islink(os.path.join(parent, name))]
            links = sorted(os.path.join(parent, name) for name in seen if name not in folders)
            waiting += [link for link in links if not _is_above(os.path.realpath(link), real, top)]
    return sorted(files)


def _is_above(target: str, *folders: str) -> bool:
    return any(Path(folder).is_relative_to(target) for folder in folders)
