"""The contract: what the trainers, captioners and comparisons ask of an encoder, and nothing else.

`create_encoder(name)` gives any registered name the contract. A model of this package implements `TokenEncoder` itself;
any other timm model with a spatial feature map is wrapped by `TimmEncoder`: the positions of its last feature map are
its tokens, unless they are reduced (timm_encoders.py). So a new encoder is a registered timm model:

    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
    from timm.models.vision_transformer import VisionTransformer
    from encoders import create_encoder
    from encoders.preprocessing import augreg_cfg

    default_cfgs = generate_default_cfgs({"shallow_vit_48": augreg_cfg(input_size=(3, 48, 48), classifier="head")})

    @register_model
    def shallow_vit_48(pretrained=False, **kwargs):
        arguments = {"img_size": 48, "patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 2, **kwargs}
        return build_model_with_cfg(VisionTransformer, "shallow_vit_48", pretrained, **arguments)

    create_encoder("shallow_vit_48").forward_tokens(pixels)        # (B, 37, 64): class token and 6 x 6 patches

In this package, such a file is imported by __init__.py, and its name is added to `FAMILIES` (registry.py). Then
`vlcap encoders` lists it, and `vlcap train classifier --set encoder=shallow_vit_48` trains it. timm's own models need
no code: `create_encoder("vit_small_patch14_reg4_dinov2")`, `create_encoder("convnext_tiny")`.

Legend of shapes
    B: batch   S: side of the image in pixels   M: tokens   D: num_features   L: blocks   K: heads   N: lookup tokens
"""

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import timm
import torch
import torch.nn as nn
import torch.nn.functional as F

from .errors import EncoderError

RATES = ("proj_drop_rate", "attn_drop_rate", "drop_path_rate")  # recipes set them; not every timm model has them


class TokenEncoder:
    """The contract, with the answers of an encoder that has neither choice nor trunk. Name it before `nn.Module`.

    Beside it an encoder has what every timm model has: `num_features`, `head_hidden_size`, `pretrained_cfg`,
    `forward_features`, `forward_head`, `get_classifier`, `reset_classifier`, `group_matcher`, `no_weight_decay` and
    `set_grad_checkpointing`.

    Pixels are normalized as `pretrained_cfg` says: (B, 3, S, S), or (B, 3, T, S, S) where `frames` is set. An encoder
    with a trunk also takes the trunk's features in their place. The first three methods raise EncoderError for a budget
    that `check_budget` refuses.

    Attributes:
        budget: Side of the compressed grid that is used when none is asked for.
        budgets: Sides that the encoder is meant for: what it is compared at, and what training draws from.
        has_choice: Whether another budget than its own can be asked for.
        gathers: Whether `forward_maps` gives gather attention.
        any_size: Whether images of any size give the tokens of the same budgets, without `set_input_size`.
        frames: Number of frames of the clips that it reads, pixels (B, 3, T, S, S); None for photos.
        has_trunk: Whether it stands on a convolutional `trunk`, whose features it also takes in place of pixels.
        starts_from: What `init_from` may fill: a ViT's blocks ("vit"), the trunk ("trunk"), or nothing.
    """

    budget: Any
    budgets: Any
    has_choice: bool = False
    gathers: bool = False
    any_size: bool = False
    frames: int | None = None
    has_trunk: bool = False
    starts_from: Literal["vit", "trunk"] | None = None

    def forward_tokens(self, x: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        """What a decoder reads: pixels (B, 3, S, S) -> tokens (B, M, D)."""
        raise NotImplementedError

    def forward_pooled(self, x: torch.Tensor, budget: int | None = None) -> tuple[torch.Tensor, ...]:
        """What each head of `get_classifier` reads: pixels (B, 3, S, S) -> one (B, head_hidden_size) per head."""
        raise NotImplementedError

    def forward_maps(self, x: torch.Tensor, budget: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Compressed tokens (B, M, D) and every block's gather attention (B, L, K, M, N).

        Raises:
            NotImplementedError: The encoder has none; see `gathers`.
        """
        raise NotImplementedError(f"{self.kind} has no gather attention")

    def grid_side(self, size: int) -> int:
        """Lookup tokens or patches on a side of a square image; the largest budget.

        Args:
            size: Side of the image in pixels.

        Raises:
            EncoderError: The encoder cannot read images of this size.
        """
        raise NotImplementedError

    def token_count(self, budget: int, size: int) -> int:
        """Number of tokens that `forward_tokens` gives for a square image of `size` pixels."""
        return budget**2

    def set_input_size(self, img_size: int) -> None:
        """Takes the encoder to images of another size; positional embeddings are resampled.

        Raises:
            EncoderError: The encoder cannot read images of this size.
        """
        raise NotImplementedError

    @property
    def kind(self) -> str:
        """Name of the class, for messages."""
        return type(self).__name__

    def check_budget(self, budget: int | None, grid: Sequence[int] | None = None) -> int:
        """The budget to use: the encoder's own for None.

        Args:
            budget: Side of the compressed grid.
            grid: Height and width of the lookup grid, for an encoder that has a choice.

        Raises:
            EncoderError: The encoder has another budget and no choice, or the budget is not a whole number from 1 to
                the short side of the grid.
        """
        if not self.has_choice:
            if budget not in (None, self.budget):
                raise EncoderError(f"{self.kind} has no choice of budget: it is {self.budget}, not {budget!r}")
            return self.budget
        budget = self.budget if budget is None else budget
        most = min(grid or [budget])
        if isinstance(budget, bool) or not isinstance(budget, int) or not 1 <= budget <= most:
            raise EncoderError(
                f"budget {budget!r} does not fit: it is the side of the compressed grid, a whole number from 1 to "
                f"{most} for this image's {'x'.join(map(str, grid or []))} lookup tokens"
            )
        return budget

    def headless_state_dict(self: Any) -> dict[str, torch.Tensor]:
        """The weights without those of the classification heads: what another set of classes can start from."""
        heads = self.get_classifier()
        heads = {id(head) for head in (heads if isinstance(heads, tuple) else (heads,))}
        prefixes = tuple(f"{name}." for name, module in self.named_modules() if id(module) in heads)
        return {name: weight for name, weight in self.state_dict().items() if not name.startswith(prefixes)}


class TimmEncoder(TokenEncoder, nn.Module):
    """A timm model with a spatial feature map, behind the contract. It has one budget: its own grid.

    A sequence of tokens, (B, M, D), is given as the model normalizes it, class and register tokens included. A
    convolutional feature map, (B, D, h, w), has no norm of its own: it is layer-normalized over its channels, without
    weights, and flattened row by row.

    What the contract does not define is the model's own: `encoder.blocks` is `encoder.wrapped.blocks`.

    Args:
        model: The timm model.
        image_size: Side of the images that it is made for.

    Raises:
        EncoderError: The model has no spatial feature map at this size.
    """

    def __init__(self, model: nn.Module, image_size: int):
        super().__init__()
        # The wrapper registers the model's weights and layers as its own, in the very same dicts: names in state dicts
        # stay timm's, and a layer that either replaces is replaced in both. The model itself stays unregistered.
        self.__dict__["wrapped"] = model
        for registry in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[registry] = model.__dict__[registry]
        self.training = model.training
        self.has_trunk = getattr(model, "has_trunk", False)
        self.starts_from = getattr(model, "starts_from", None)
        self.image_size = image_size
        self._describe()

    def __getattr__(self, name: str) -> Any:
        wrapped = self.__dict__.get("wrapped")
        if wrapped is None:  # while it is being copied or unpickled
            raise AttributeError(name)
        return getattr(wrapped, name)

    def _describe(self) -> None:
        """Finds the layout of the feature map, and from it the budget."""
        self.layout, self.budget = describe_features(self.wrapped, self.image_size)

    @property
    def kind(self) -> str:
        return type(self.wrapped).__name__

    @property
    def budgets(self) -> tuple[int, ...]:
        return (self.budget,)

    @property
    def prefix_tokens(self) -> int:
        """Number of class and register tokens."""
        return getattr(self.wrapped, "num_prefix_tokens", 0) if self.layout == "tokens" else 0

    def train(self, mode: bool = True) -> "TimmEncoder":
        self.wrapped.train(mode)  # its layers are this module's; a frozen trunk stays in eval mode
        self.training = mode
        return self

    def grid_side(self, size: int) -> int:
        if size != self.image_size:
            raise EncoderError(f"it reads images of {self.image_size} pixels, not of {size}")
        grid = getattr(getattr(self.wrapped, "patch_embed", None), "grid_size", None)
        return grid[0] if grid and self.layout == "tokens" else self.budget

    def token_count(self, budget: int, size: int) -> int:
        return budget**2 + self.prefix_tokens

    @torch.jit.ignore
    def set_input_size(self, img_size: int) -> None:
        if hasattr(self.wrapped, "set_input_size"):
            self.wrapped.set_input_size(img_size=img_size)
        self.image_size = img_size
        self._describe()

    def forward_tokens(self, x: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        self.check_budget(budget)
        return self.every_token(x)

    def every_token(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, S, S) -> all tokens of the last feature map (B, M, D), class and register tokens first."""
        features = self.forward_features(x)  # the model's own, or a subclass's
        if self.layout == "NCHW":
            features = features.permute(0, 2, 3, 1)
            features = F.layer_norm(features, features.shape[-1:])
        if self.layout != "tokens":
            return features.flatten(1, 2)
        norm = getattr(self.wrapped, "fc_norm", None)  # the identity where the norm comes before pooling
        return features if norm is None else norm(features)

    def forward_pooled(self, x: torch.Tensor, budget: int | None = None) -> tuple[torch.Tensor, ...]:
        self.check_budget(budget)
        return (self.wrapped.forward_head(self.forward_features(x), pre_logits=True),)

    def forward(self, x: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        """Pixels (B, 3, S, S) -> logits (B, C), or what the head reads where there are no classes."""
        self.check_budget(budget)
        return self.wrapped.forward_head(self.forward_features(x))


def describe_features(model: nn.Module, size: int) -> tuple[Literal["tokens", "NCHW", "NHWC"], int]:
    """Layout of a timm model's last feature map, and the side of its grid.

    The model is run on a copy without memory, on torch's meta device.

    Args:
        model: A timm model.
        size: Side of the image in pixels.

    Raises:
        EncoderError: `forward_features` gives no square map of more than one position for this size.
    """
    named = f"{type(model).__name__} cannot be an encoder of images of {size} pixels"
    # The copy takes these for copies of the weights, so nothing is copied.
    shapes = {id(each): each.to("meta") for each in (*model.parameters(), *model.buffers())}
    channels = model.pretrained_cfg["input_size"][0]
    try:
        with torch.no_grad(), torch.device("meta"):
            features = copy.deepcopy(model, shapes).eval().forward_features(torch.empty(1, channels, size, size))
    except Exception as error:  # whatever a size that does not fit makes timm and torch raise
        raise EncoderError(f"{named}: {' '.join(str(error).split()):.200}") from error
    shape = tuple(features.shape) if isinstance(features, torch.Tensor) else ()
    width, prefix = model.num_features, getattr(model, "num_prefix_tokens", 0)
    layout: Literal["tokens", "NCHW", "NHWC"] | None = None
    if len(shape) == 3 and shape[2] == width:
        side = math.isqrt(max(shape[1] - prefix, 0))
        # A single token, or a number that is no square, is not a grid of positions.
        layout = "tokens" if side > 1 and side**2 + prefix == shape[1] else None
    elif len(shape) == 4 and shape[1] == width and shape[2] == shape[3]:
        layout, side = "NCHW", shape[2]
    elif len(shape) == 4 and shape[3] == width and shape[1] == shape[2]:
        layout, side = "NHWC", shape[1]
    if layout is None:
        found = f"features of the shape {shape}" if shape else f"a {type(features).__name__}"
        raise EncoderError(f"{named}: its forward_features gives {found}, no square feature map of {width} channels")
    return layout, side


def create_encoder(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """An encoder by its registered name: one of this package's, or any timm model with a spatial feature map.

    Args:
        name: timm's name of the model.
        pretrained: Whether timm's weights are loaded.
        kwargs: Arguments of the model. A convolutional model takes `img_size` too, and recipes' rates of dropout where
            they are 0.

    Raises:
        EncoderError: The model has no spatial feature map, or no such dropout.
        RuntimeError: timm knows no such model, or has no weights for it.
    """
    model, left = None, dict(kwargs)
    while model is None:
        try:
            model = timm.create_model(name, pretrained=pretrained, **left)
        except TypeError as error:
            unknown = [each for each in ("img_size", *RATES) if each in left and f"argument '{each}'" in str(error)]
            if not unknown:
                raise
            if left.pop(unknown[0]) and unknown[0] in RATES:
                raise EncoderError(f"{name} has no {unknown[0]}: set it to 0") from error
    if isinstance(model, TokenEncoder):
        return model
    own = getattr(getattr(model, "patch_embed", None), "img_size", None) or model.pretrained_cfg["input_size"][1:]
    return TimmEncoder(model, kwargs.get("img_size") or own[0])
