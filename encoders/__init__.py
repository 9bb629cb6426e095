"""Images to tokens. Importing this package registers its encoders with timm: `timm.create_model("lookupvit_...")`."""

from .lookupvit import LookupViT

__all__ = ["LookupViT"]
