"""A timm encoder as a Hugging Face model: the encoder of a captioner folder and of `VisionEncoderDecoderModel`."""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from encoders import EncoderError, create_encoder
from encoders.cost import count_gflops
from encoders.vittm import older_arguments

from ..data.images import PixelConfig
from ..errors import reason
from .folder import MAX_CLIP, MAX_GRID, ModelFolderError, WeightFile, check_encoder_settings, check_numbers, read_json
from .processor import save_processor

SETTINGS = ("architecture", "model_args", "hidden_size", "budgets", "pixels", "classes")
STREAMS = ("compressed", "lookup")  # in the order of `get_classifier`


class EncoderConfig(PreTrainedConfig):
    """The settings that rebuild an encoder.

    Args:
        architecture: Registered name of the encoder, as for `encoders.create_encoder`.
        model_args: Keyword arguments of the architecture; num_classes is 0 for an encoder without heads.
        hidden_size: D, width of the tokens.
        budgets: Sides of the compressed grid that the encoder was trained for.
        pixels: Preprocessing, a `PixelConfig` as a dict.
        classes: Names of the classes of its heads; empty without heads.
    """

    model_type = "vlcap-encoder"

    def __init__(
        self,
        architecture: str = "lookupvit_test_patch8_48",
        model_args: dict[str, Any] | None = None,
        hidden_size: int = 64,
        budgets: list[int] | None = None,
        pixels: dict[str, Any] | None = None,
        classes: list[str] | None = None,
        **kwargs: Any,
    ):
        self.architecture = architecture
        self.model_args = model_args or {}
        self.hidden_size = hidden_size
        self.budgets = budgets
        self.pixels = pixels
        self.classes = classes or []
        super().__init__(**kwargs)


class Encoder(PreTrainedModel):
    """Pixels (B, 3, S, S) -> `last_hidden_state` (B, M, D), the compressed tokens.

    The pixels are float32, as `normalize` makes them of uint8. An encoder of clips reads (B, 3, T, S, S). An encoder
    with a trunk also takes the trunk's features in place of pixels.
    """

    config_class = EncoderConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: EncoderConfig):
        super().__init__(config)
        check_encoder_settings(config.architecture, config.model_args)
        self.model = create_encoder(config.architecture, **config.model_args)
        self.frozen = False
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Only what no weight file holds, such as Swin's indices: timm has initialized its model itself."""
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    @classmethod
    def create(
        cls,
        architecture: str,
        classes: list[str] | None = None,
        pixels: PixelConfig | None = None,
        pretrained: bool = False,
        **model_args: Any,
    ) -> "Encoder":
        """A new encoder.

        Args:
            architecture: Registered name of the encoder, as for `encoders.create_encoder`.
            classes: Names of the classes of its heads; None for no heads.
            pixels: Preprocessing; None for that of the architecture's `pretrained_cfg`, at model_args' `img_size`.
            pretrained: Whether to use timm's weights instead of random ones, downloaded if they are not cached.
                Heads for other classes are new.
            model_args: Further arguments of the architecture.

        Raises:
            EncoderError: The architecture is not an encoder (encoders/interface.py).
            RuntimeError: timm knows no such model, or has no weights for it.
        """
        model_args["num_classes"] = len(classes or [])
        model = create_encoder(architecture, pretrained=pretrained, **model_args)
        if pixels is None:
            pixels = PixelConfig.from_pretrained_cfg(model.pretrained_cfg)
            pixels = replace(pixels, size=model_args.get("img_size", pixels.size))
        config = EncoderConfig(
            architecture=architecture,
            model_args=model_args,
            hidden_size=model.num_features,
            budgets=list(model.budgets),
            pixels=pixels.to_dict(),
            classes=classes,
        )
        encoder = cls(config)
        encoder.model.load_state_dict(model.state_dict())
        return encoder

    @classmethod
    def load(cls, folder: str | Path) -> "Encoder":
        """Loads a trained encoder from a folder, which is checked before memory is taken (folder.py).

        Raises:
            ModelFolderError: There is no encoder in the folder, or its files do not fit together.
        """
        folder = Path(folder)
        try:
            config = encoder_config(read_json(folder / "config.json"))
            file = WeightFile(folder)
            complete_older(config, file.shapes)
            file.check_parts(config.model_args)
            with file.bounds():
                described = describe(cls, config)
            weights = file.read(described)
        except ModelFolderError as error:
            raise ModelFolderError(f"no encoder can be loaded from {folder}: {error}") from None
        return cls.from_pretrained(None, config=config, state_dict=weights)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Writes the encoder's folder, with its preprocessing in Hugging Face's form (processor.py)."""
        super().save_pretrained(save_directory, **kwargs)
        save_processor(self.pixels, save_directory)

    @property
    def pixels(self) -> PixelConfig:
        return PixelConfig.from_dict(self.config.pixels)

    # The contract of encoders/interface.py, at the size of its photos.

    @property
    def has_choice(self) -> bool:
        """Whether another budget than its own can be asked for."""
        return self.model.has_choice

    @property
    def budget(self) -> int:
        """Side of the compressed grid that is used when none is asked for."""
        return self.model.budget

    @property
    def gathers(self) -> bool:
        """Whether `forward_maps` gives gather attention."""
        return self.model.gathers

    @property
    def any_size(self) -> bool:
        """Whether it serves photos of any size without `set_image_size`."""
        return self.model.any_size

    @property
    def frames(self) -> int | None:
        """Number of frames of the clips that it reads; None for photos."""
        return self.model.frames

    @property
    def trunk(self) -> torch.nn.Module | None:
        """The convolutional trunk that it stands on, if any."""
        return self.model.trunk if self.model.has_trunk else None

    def see(self, pixels: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Pixels uint8 (B, 3, S, S), of clips (B, T, 3, S, S) -> what the methods below take at any budget, on the
        encoder's device.

        Of an encoder on a trunk, the trunk's features of the photos: they are computed once for several budgets.
        """
        seen = self.normalize(pixels.to(self.device))
        return self.trunk(seen) if self.trunk is not None else seen

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels uint8 (B, 3, S, S), of clips (B, T, 3, S, S) -> float32 as `forward` takes them, (B, 3, T, S, S)."""
        normal = self.pixels.normalize(pixels)
        return normal.transpose(1, 2) if normal.ndim == 5 else normal

    def grid_side(self, size: int | None = None) -> int:
        """Lookup tokens or patches on a side of a photo: the largest budget."""
        return self.model.grid_side(size or self.pixels.size)

    def token_count(self, budget: int) -> int:
        """Number of tokens that a decoder reads at a budget, including class and register tokens."""
        return self.model.token_count(budget, self.pixels.size)

    def check_budgets(self, budgets: Iterable[int]) -> None:
        """Checks that it can serve budgets.

        Raises:
            EncoderError: One does not fit the grid, or the encoder has no choice.
        """
        side = self.grid_side()
        for budget in budgets:
            if self.frames:
                self.model.token_count(budget, self.pixels.size)  # checks it against the grid of a clip
            else:
                self.model.check_budget(budget, (side, side))

    def gflops(self, budget: int | None = None) -> float:
        """GFLOPs (2 x MACs) per photo at a budget."""
        return count_gflops(self.model, budget, self.pixels.size)

    def forward_maps(self, pixels: torch.Tensor, budget: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Compressed tokens (B, M, D) and every block's gather attention (B, L, K, M, N)."""
        return self.model.forward_maps(pixels, budget)

    def forward_pooled(self, pixels: Any, budget: int | None = None) -> tuple[torch.Tensor, ...]:
        """What the heads read: pixels (B, 3, S, S) -> one (B, D) per head, or per stream where there are none."""
        return self.model.forward_pooled(pixels, budget)

    def classify(self, pixels: Any, budget: int | None = None) -> dict[str, torch.Tensor]:
        """Logits (B, C), of its heads together under "all", and of each stream under its name if two are classified.

        Raises:
            EncoderError: It has no heads.
        """
        if not self.config.classes:
            raise EncoderError(f"{self.config.architecture} has no classification heads here: it classifies nothing")
        heads = self.model.get_classifier()
        if not isinstance(heads, tuple) or len(heads) == 1:
            return {"all": self.model(pixels, budget=budget)}
        pooled = self.model.forward_pooled(pixels, budget)
        logits = [head(each) for head, each in zip(heads, pooled, strict=True)]
        return {"all": sum(logits) / len(logits), **dict(zip(STREAMS, logits, strict=True))}

    def with_arguments(self, model_args: dict[str, Any]) -> "Encoder":
        """A copy under changed arguments of its architecture, with the same weights; None removes an argument."""
        changed = {key: value for key, value in (self.config.model_args | model_args).items() if value is not None}
        changed.pop("num_classes", None)
        new = Encoder.create(self.config.architecture, self.config.classes, pixels=self.pixels, **changed)
        new.model.load_state_dict(self.model.state_dict())
        return new

    def set_image_size(self, size: int) -> "Encoder":
        """Takes the encoder to photos of another size; positional embeddings are resampled, as usual for ViTs."""
        self.model.set_input_size(img_size=size)
        self.config.model_args = {**self.config.model_args, "img_size": size}
        self.config.pixels = {**self.config.pixels, "size": size}
        self.config.budgets = list(self.model.budgets)
        return self

    def set_budgets(self, budgets: list[int]) -> "Encoder":
        """Declares the budgets that it is trained for; the middle one becomes the default.

        Raises:
            EncoderError: The encoder has no choice, and these are not its own.
        """
        if not self.has_choice:
            if list(budgets) != list(self.model.budgets):
                raise EncoderError(f"{self.config.architecture} has no choice of budget: it is {self.budget}")
            return self
        middle = budgets[len(budgets) // 2]
        self.model.budgets, self.model.budget = tuple(budgets), middle
        self.config.budgets = list(budgets)
        self.config.model_args = {**self.config.model_args, "budgets": list(budgets), "budget": middle}
        return self

    def check_settings(self) -> None:
        """Checks that sizes, budgets and preprocessing in the config are the model's.

        Raises:
            EncoderError: One of them is not; the message names it.
        """
        size, settings = self.pixels.size, self.config
        self.pixels.eval_transform()
        grid = self.grid_side()
        if not 1 <= grid <= MAX_GRID:
            raise EncoderError(f"photos of {size} x {size} pixels make a grid of side {grid}, not 1 to {MAX_GRID}")
        if self.frames and not 1 <= self.frames * size**2 <= MAX_CLIP:
            raise EncoderError(f"clips of {self.frames} frames of {size} x {size} pixels are too large")
        if settings.hidden_size != self.model.num_features:
            raise EncoderError(f"hidden_size is {settings.hidden_size}, not {self.model.num_features}")
        choice = range(1, grid + 1) if self.has_choice else self.model.budgets
        if not settings.budgets or not {*settings.budgets, self.model.budget} <= {*choice}:
            raise EncoderError(
                f"its budgets {settings.budgets} or its default {self.model.budget} are not among {[*choice]}"
            )

    def without_heads(self) -> "Encoder":
        """Drops the classification heads, which a captioner does not need."""
        self.model.reset_classifier(0)
        self.config.model_args = {**self.config.model_args, "num_classes": 0}
        self.config.classes = []
        return self

    def freeze(self) -> "Encoder":
        """Stops gradients and keeps eval mode, even after a parent's `.train()` (LiT: locked)."""
        self.requires_grad_(False)
        self.frozen = True
        return self.eval()

    def train(self, mode: bool = True) -> "Encoder":
        return super().train(mode and not self.frozen)

    def forward(self, pixel_values: torch.Tensor, budget: int | None = None, **unused: Any) -> BaseModelOutput:
        # `unused`: VisionEncoderDecoderModel passes arguments that only other encoders know.
        tokens = self.model.forward_tokens(pixel_values, budget=budget)
        return BaseModelOutput(last_hidden_state=tokens.contiguous())  # GPT-2's Conv1D takes a view of it


def encoder_config(values: Any) -> EncoderConfig:
    """An encoder's config from JSON; only known settings are read.

    Raises:
        ModelFolderError: The config is not an encoder's, or its values do not fit.
    """
    if not isinstance(values, dict) or values.get("model_type") != EncoderConfig.model_type:
        kind = values.get("model_type") if isinstance(values, dict) else values
        raise ModelFolderError(f"not a vlcap captioner: its encoder is {kind!r:.100}, no {EncoderConfig.model_type}")
    known = {name: values[name] for name in SETTINGS if name in values}
    check_encoder_settings(known.get("architecture"), known.get("model_args"))
    classes = known.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ModelFolderError("config.json: classes is not a list of names")
    check_numbers({name: known.get(name) for name in ("hidden_size", "budgets")})
    return EncoderConfig(**known)


def complete_older(config: EncoderConfig, weights: Collection[str]) -> None:
    """Adds the arguments that the config of an earlier version lacks to rebuild the same encoder.

    Args:
        config: The encoder's config, changed in place.
        weights: Names of the weights in its folder.
    """
    config.model_args = older_arguments(config.architecture, config.model_args, weights) | config.model_args


def describe(kind: type[PreTrainedModel], config: Any) -> Any:
    """The model on the meta device, without memory, if all of its settings fit together.

    Raises:
        ModelFolderError: They do not.
    """
    try:
        with torch.device("meta"):
            model = kind(config)
            encoder = model if isinstance(model, Encoder) else model.encoder
            encoder.check_settings()
        return model
    except Exception as error:  # settings that do not fit make timm, Hugging Face and torch raise anything
        raise ModelFolderError(f"config.json describes no model that works: {reason(error)}") from error


def digest_weights(model: torch.nn.Module) -> str:
    """SHA-256 of a model's weights, names and bytes: part of the key of caches that it fills."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


AutoConfig.register("vlcap-encoder", EncoderConfig)
AutoModel.register(EncoderConfig, Encoder)
