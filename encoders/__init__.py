"""Images to tokens. Importing this package registers its encoders with timm: `timm.create_model("lookupvit_...")`."""

from .errors import EncoderError
from .hybrid import HybridLookupViT
from .lookupvit import LookupViT
from .pooled import PooledTrunk
from .tokenlearner import TokenLearnerViT
from .vit import create_encoder
from .vittm import ViTTM

__all__ = ["EncoderError", "HybridLookupViT", "LookupViT", "PooledTrunk", "TokenLearnerViT", "ViTTM", "create_encoder"]
