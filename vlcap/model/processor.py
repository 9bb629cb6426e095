"""The preprocessing of photos as Hugging Face's own image processors know it: preprocessor_config.json.

Programs that load a folder of ours with `AutoImageProcessor` get the pixels that `PixelConfig` gives, within 1/255 (the
filters of PyTorch and Pillow round differently). Where no processor of Hugging Face's does the same, none is saved: a
center crop of theirs rounds down, ours is timm's and rounds to even, so a quarter of all photos would be cut one pixel
beside ours.
"""

from pathlib import Path
from typing import Any

from ..data.pixels import FILTERS, PixelConfig

NAME = "preprocessor_config.json"
SHARED = ("bilinear", "bicubic")  # filters that Hugging Face has both by PyTorch and by Pillow


def image_processor(pixels: PixelConfig) -> Any:
    """Hugging Face's image processor with the same preprocessing; None if there is none.

    Args:
        pixels: Preprocessing of an encoder.
    """
    from transformers import BitImageProcessor, ViTImageProcessor

    if pixels.crop_mode != "squash" or pixels.interpolation not in SHARED:
        return None
    side = int(pixels.size / pixels.crop_pct)
    cut = side - pixels.size
    if round(cut / 2) != cut // 2:
        return None
    settings: dict[str, Any] = {
        "do_convert_rgb": True,
        "size": {"height": side, "width": side},
        "resample": FILTERS[pixels.interpolation],
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
    }
    if not cut:
        return ViTImageProcessor(**settings)
    return BitImageProcessor(**settings, crop_size={"height": pixels.size, "width": pixels.size})


def save_processor(pixels: PixelConfig, folder: str | Path) -> None:
    """Writes preprocessor_config.json into a folder, if Hugging Face has the preprocessing."""
    processor = image_processor(pixels)
    if processor is not None:
        processor.save_pretrained(folder)
