"""Images to tokens. Importing this package registers its encoders with timm: `timm.create_model("lookupvit_...")`."""

from . import hybrid_rivals, lookupvivit, pooled, reduced, timm_encoders, tokenlearner, variants, vit, vittm
from .errors import EncoderError
from .hybrid import HybridLookupViT
from .interface import TokenEncoder, create_encoder
from .lookupvit import LookupViT

__all__ = [
    "EncoderError",
    "HybridLookupViT",
    "LookupViT",
    "TokenEncoder",
    "create_encoder",
    "hybrid_rivals",
    "lookupvivit",
    "pooled",
    "reduced",
    "timm_encoders",
    "tokenlearner",
    "variants",
    "vit",
    "vittm",
]
