"""How an encoder wants its pictures: from an RGB image to the numbers that the encoder computes with.

    PIL image, RGB -> eval_transform -> uint8 (3,S,S) -> normalize -> float32 (B,3,S,S)

Letters: B pictures in a batch, S side of the square picture an encoder reads, 3 color channels (red, green, blue).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import VlcapError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

# timm's names of the resizing filters.
FILTERS = {each.name.lower(): each for each in Image.Resampling}


class PixelConfigError(VlcapError, ValueError):
    """Pixel settings are missing, unknown, or out of range. The message names the setting and its value."""


@dataclass(frozen=True)
class PixelConfig:
    """The preprocessing of an encoder: the size of its pictures, the crop, and the scale of the pixel values.

    Attributes:
        size: S, the side of the square picture in pixels.
        mean: Mean of each color channel, for values from 0 to 1.
        std: Standard deviation of each color channel, for values from 0 to 1.
        interpolation: timm's name of the resizing filter.
        crop_pct: Share of the resized picture's side that the crop keeps. With 1, only `crop_mode` crops.
        crop_mode: timm's name of the crop. "center" keeps the proportions and cuts the long side. "squash" changes the
            proportions and, with crop_pct 1, keeps the whole picture. "border" keeps both and fills the rest with the
            mean color.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"

    def __post_init__(self):
        # JSON has lists. Tuples keep the configuration hashable and equal to the one that was saved.
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if self.size < 1:
            raise PixelConfigError(f"size must be a positive number of pixels, got {self.size}")
        scales = (*self.mean, *self.std)
        if not all(isinstance(each, (int, float)) and abs(each) < math.inf for each in scales) or not (
            len(self.mean) == len(self.std) == 3 and min(self.std) > 0
        ):
            raise PixelConfigError(f"mean and std must be 3 numbers, std positive, got {self.mean} and {self.std}")
        if not 0 < self.crop_pct <= 1:
            raise PixelConfigError(f"crop_pct must be above 0 and at most 1, got {self.crop_pct}")
        # timm silently takes any other word for "center".
        if self.crop_mode not in ("center", "squash", "border"):
            raise PixelConfigError(f"crop_mode must be center, squash or border, got {self.crop_mode!r}")

    @classmethod
    def from_pretrained_cfg(cls, cfg: Mapping) -> PixelConfig:
        """The preprocessing in a timm model's `pretrained_cfg`, with timm's defaults for missing values.

        Raises:
            PixelConfigError: `input_size` is not (3, S, S), or another value is out of range.
        """
        from timm.data import resolve_data_config

        # timm refuses an empty cfg. One key that it does not read is enough.
        resolved = resolve_data_config(pretrained_cfg={"url": "", **cfg})
        channels, height, width = resolved.pop("input_size")
        if channels != 3 or height != width:
            raise PixelConfigError(f"only square RGB input is supported, input_size is {(channels, height, width)}")
        return cls(size=height, **resolved)

    @classmethod
    def from_dict(cls, values: Mapping) -> PixelConfig:
        """The reverse of `to_dict`, also after a round trip through JSON.

        Raises:
            PixelConfigError: A key is missing or unknown, or a value is out of range.
        """
        expected = {field.name for field in fields(cls)}
        if values.keys() != expected:
            raise PixelConfigError(f"pixel settings must have the keys {sorted(expected)}, got {sorted(values)}")
        return cls(**values)

    def to_dict(self) -> dict[str, int | float | str | list[float]]:
        """The fields by name, in types that JSON keeps."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @property
    def is_plain(self) -> bool:
        """Whether `cut` does without timm."""
        return self.crop_mode in ("center", "squash") and self.interpolation in FILTERS

    def cut(self, image: Image.Image) -> NDArray:
        """The fixed transform for evaluation and captioning: RGB image -> uint8 array (3,S,S).

        As timm's, which takes seconds to import: equal to the bit (tests/vlcap/test_engines.py).
        """
        import numpy as np

        if not self.is_plain:
            return self.eval_transform()(image).numpy()
        side = int(self.size / self.crop_pct)
        if self.crop_mode == "squash":
            width = height = side
        else:  # the short side
            short = min(image.size)
            width, height = (side if length == short else int(side * length / short) for length in image.size)
        image = image.resize((width, height), FILTERS[self.interpolation])
        left, top = (round((length - self.size) / 2) for length in (width, height))
        image = image.crop((left, top, left + self.size, top + self.size))
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def eval_transform(self) -> Callable[[Image.Image], Tensor]:
        """timm's fixed transform for evaluation: RGB image -> uint8 tensor (3,S,S)."""
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
        """A random transform for training: RGB image -> uint8 tensor (3,S,S).

        Args:
            scale: Smallest and largest share of the picture's area that a random crop takes.
            ratio: Smallest and largest width over height of that crop, before it is resized to a square.
            hflip: Probability of a horizontal flip.
            auto_augment: timm's text for an augmentation policy, such as "rand-m9-mstd0.5-inc1", or None.
            color_jitter: Strength of random brightness, contrast and saturation; timm ignores it if there is a policy.
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
        """Pixel values as the encoder expects them: (value / 255 - mean) / std.

        Args:
            pixels: uint8 (B,3,S,S) or (3,S,S), values 0 to 255.

        Returns:
            float32, of the same shape and on the same device.
        """
        import torch

        # One constant tensor, copied without waiting: a blocking copy would hold up the accelerator at every batch.
        constants = torch.tensor([self.mean, self.std], dtype=torch.float32).to(pixels.device, non_blocking=True)
        mean, std = constants[:, :, None, None]  # (3,1,1) each
        return (pixels.to(torch.float32) / 255 - mean) / std
