"""Sizes of all families, in one table: encoders that are compared differ in nothing else.

"tiny" to "large" are ViT's (arXiv 2010.11929, Table 1; tiny and small by DeiT, arXiv 2012.12877). "mini" trains on a
CPU. "test" runs in milliseconds and is for tests and `--smoke`.
"""

from typing import Any

SIZES: dict[str, dict[str, Any]] = {  # image and patch in pixels; width of the tokens; blocks; attention heads
    "tiny": {"img_size": 224, "patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"img_size": 224, "patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"img_size": 224, "patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12},
    "large": {"img_size": 224, "patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16},
    "mini": {"img_size": 96, "patch_size": 8, "embed_dim": 192, "depth": 6, "num_heads": 3},
    "hybrid": {"embed_dim": 256, "depth": 2, "num_heads": 4},  # over a trunk, which sets image and patch
    "test": {"img_size": 48, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2},
}


def sized(size: str, given: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """A model's keyword arguments: those of a size, a variant's own defaults, then what the caller has given.

    Args:
        size: Name of a row of `SIZES`.
        given: The caller's arguments, which win.
        defaults: The variant's arguments, which win over the size's.
    """
    return {**SIZES[size], **defaults, **given}
