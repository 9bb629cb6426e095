"""Photos with ImageNet-C's fifteen corruptions (arXiv 1903.12261), at severities 1 to 5, by `imagecorruptions`.

`pip install 'vlcap[probe]'` brings that package. It draws from NumPy's global generator, and two of its corruptions
from generators of their own. Here each photo has a seed, and the global generator is put back as it was.
"""

import hashlib

import numpy as np
from PIL import Image

from ..errors import VlcapError

NOISE = ("gaussian_noise", "shot_noise", "impulse_noise")
BLUR = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur")
WEATHER = ("snow", "frost", "fog", "brightness")
DIGITAL = ("contrast", "elastic_transform", "pixelate", "jpeg_compression")
CORRUPTIONS = NOISE + BLUR + WEATHER + DIGITAL
SEVERITIES = (1, 2, 3, 4, 5)
PACKAGE = "imagecorruptions-imaug"
SIZE = 224  # pixels: ImageNet-C's photos, for which the strengths were chosen
SMALLEST = 32  # pixels
SEEDED = ("impulse_noise", "glass_blur")  # those that take a seed of their own


class CorruptionError(VlcapError, ValueError):
    """A corruption that cannot be had: an unknown name or severity, or the package is missing."""


def check_corruptions(names: tuple[str, ...], severities: tuple[int, ...], size: int) -> None:
    """Checks that photos of this size can be corrupted so.

    Raises:
        CorruptionError: They cannot; the message says why.
    """
    if unknown := [name for name in names if name not in CORRUPTIONS]:
        raise CorruptionError(f"no corruption is called {unknown[0]!r:.60}: there are {', '.join(CORRUPTIONS)}")
    if wrong := [severity for severity in severities if severity not in SEVERITIES]:
        raise CorruptionError(f"severity {wrong[0]}: a whole number from 1 to 5")
    if size < SMALLEST:
        raise CorruptionError(f"photos of {size} pixels cannot be corrupted: {SMALLEST} at least")
    try:
        import imagecorruptions  # noqa: F401
    except ImportError as error:
        raise CorruptionError(
            f"corruptions need the package imagecorruptions-imaug ({error}): pip install 'vlcap[probe]'"
        ) from None


def bring_to_size(photo: Image.Image, size: int) -> Image.Image:
    """The middle of a photo, (size, size): the short side is resized (bicubic). A photo of this size stays as it is."""
    if photo.size == (size, size):
        return photo
    short = min(photo.size)
    width, height = (size if side == short else round(side * size / short) for side in photo.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = photo.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))


def corrupt(photo: Image.Image, name: str, severity: int, seed: int, row: int) -> Image.Image:
    """A corrupted copy of an RGB photo; at severity 0, the photo itself.

    Args:
        photo: The photo, at the size at which it is corrupted.
        name: Name of the corruption, as in `CORRUPTIONS`.
        severity: 0 to 5.
        seed: Random seed of the run.
        row: Number of the photo: the same photo has the same noise in every run and for every encoder.
    """
    if severity == 0:
        return photo
    from imagecorruptions import corrupt as run

    digest = hashlib.sha256(f"{seed} {row} {name} {severity}".encode()).digest()
    drawn = int.from_bytes(digest[:4], "big") >> 1  # what NumPy's and numba's generators take: below 2**31
    before = np.random.get_state()
    np.random.seed(drawn)
    try:
        own = {"seed": drawn} if name in SEEDED else {}
        found = run(np.asarray(photo), severity=severity, corruption_name=name, **own)
    finally:
        np.random.set_state(before)
    return Image.fromarray(found)
