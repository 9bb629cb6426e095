"""A timm encoder in Hugging Face's form: what a captioner folder holds and `VisionEncoderDecoderModel` drives."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from encoders import EncoderError, create_encoder

from ..data.images import PixelConfig
from .folder import MAX_GRID, ModelFolderError, WeightFile, check_encoder_settings, check_numbers, read_json

SETTINGS = ("architecture", "model_args", "hidden_size", "budgets", "pixels", "classes")


class EncoderConfig(PreTrainedConfig):
    """What rebuilds an encoder.

    Args:
        architecture: Name of a timm model with `forward_tokens`.
        model_args: Its keyword arguments; num_classes 0 for an encoder without heads.
        hidden_size: D, width of the tokens.
        budgets: Sides of the compressed grid that it was trained for.
        pixels: Its preprocessing, a `PixelConfig` as a dict.
        classes: Names of what its heads tell apart, empty without heads.
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
    """Pixels (B, 3, S, S) -> `last_hidden_state` (B, M, D), the compressed tokens."""

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
        """Nothing: timm's model has initialised itself."""

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
            architecture: Name of a timm model with `forward_tokens`.
            classes: What its heads will tell apart; None for no heads.
            pixels: Preprocessing; None for what the architecture's `pretrained_cfg` says, at model_args' `img_size`.
            pretrained: timm's weights for the architecture in place of random ones, downloaded where they aren't kept
                yet; heads for other classes start afresh.
            model_args: Further arguments of the architecture.

        Raises:
            EncoderError, RuntimeError: As `encoders.create_encoder` does.
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
        """A trained encoder out of a folder, which is checked before memory is taken (model_folder.py).

        Raises:
            ModelFolderError: There is none, or its files don't fit together.
        """
        folder = Path(folder)
        try:
            config = encoder_config(read_json(folder / "config.json"))
            file = WeightFile(folder)
            file.check_depth(config.model_args.get("depth", 0))
            weights = file.read(describe(cls, config))
        except ModelFolderError as error:
            raise ModelFolderError(f"no encoder can be loaded from {folder}: {error}") from None
        return cls.from_pretrained(None, config=config, state_dict=weights)

    @property
    def pixels(self) -> PixelConfig:
        return PixelConfig.from_dict(self.config.pixels)

    @property
    def has_choice(self) -> bool:
        """Whether it can be asked for another budget than its own."""
        return self.model.has_choice

    def token_count(self, budget: int) -> int:
        """How many tokens a decoder reads at a budget, class and register tokens of a ViT included."""
        return self.model.token_count(budget, self.pixels.size)

    def set_image_size(self, size: int) -> "Encoder":
        """The same weights for photos of another size, the positional embedding resampled: as ViTs are taken to a
        higher resolution."""
        self.model.set_input_size(img_size=size)
        self.config.model_args = {**self.config.model_args, "img_size": size}
        self.config.pixels = {**self.config.pixels, "size": size}
        self.config.budgets = list(self.model.budgets)
        return self

    def set_budgets(self, budgets: list[int]) -> "Encoder":
        """Declares what it is trained for; the middle one becomes the default.

        Raises:
            EncoderError: It has no choice, and this isn't its own.
        """
        if not self.has_choice:
            if list(budgets) != list(self.model.budgets):
                raise EncoderError(f"{self.config.architecture} has no choice of budget: it is {self.model.budget}")
            return self
        middle = budgets[len(budgets) // 2]
        self.model.budgets, self.model.budget = tuple(budgets), middle
        self.config.budgets = list(budgets)
        self.config.model_args = {**self.config.model_args, "budgets": list(budgets), "budget": middle}
        return self

    def check_settings(self) -> None:
        """Whether the config's sizes, budgets and preprocessing are the model's.

        Raises:
            EncoderError: They aren't, and which.
        """
        size, settings = self.pixels.size, self.config
        self.pixels.eval_transform()
        grid = self.model.grid_side(size)
        if not 1 <= grid <= MAX_GRID:
            raise EncoderError(f"pictures of {size} x {size} pixels")
        if settings.hidden_size != self.model.num_features:
            raise EncoderError(f"hidden_size is {settings.hidden_size}, not {self.model.num_features}")
        choice = range(1, grid + 1) if self.has_choice else self.model.budgets
        if not settings.budgets or not {*settings.budgets, self.model.budget} <= {*choice}:
            raise EncoderError(f"budgets {settings.budgets}, {self.model.budget}")

    def without_heads(self) -> "Encoder":
        """The same encoder, its classification heads dropped: what a captioner needs."""
        self.model.reset_classifier(0)
        self.config.model_args = {**self.config.model_args, "num_classes": 0}
        self.config.classes = []
        return self

    def freeze(self) -> "Encoder":
        """No gradient, and eval mode that a parent's `.train()` doesn't end (LiT: locked)."""
        self.requires_grad_(False)
        self.frozen = True
        return self.eval()

    def train(self, mode: bool = True) -> "Encoder":
        return super().train(mode and not self.frozen)

    def forward(self, pixel_values: torch.Tensor, budget: int | None = None, **unused: Any) -> BaseModelOutput:
        # `unused`: VisionEncoderDecoderModel passes what only other encoders know.
        tokens = self.model.forward_tokens(pixel_values, budget=budget)
        return BaseModelOutput(last_hidden_state=tokens.contiguous())  # GPT-2's Conv1D takes a view of it


def encoder_config(values: Any) -> EncoderConfig:
    """An encoder's config out of JSON: what is known here of it, if it is sound.

    Raises:
        ModelFolderError: It is no encoder's, or its values don't fit.
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


def describe(kind: type[PreTrainedModel], config: Any) -> Any:
    """A model on the meta device, without memory, when all of its settings fit together.

    Raises:
        ModelFolderError: They don't.
    """
    try:
        with torch.device("meta"):
            model = kind(config)
            encoder = model if isinstance(model, Encoder) else model.encoder
            encoder.check_settings()
        return model
    except Exception as error:  # whatever settings that don't fit make timm, Hugging Face and torch raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelFolderError(f"config.json describes no model that works: {reason:.300}") from error


def digest_weights(model: torch.nn.Module) -> str:
    """SHA-256 of a model's weights, names and bytes: part of the key under which what it computed is kept."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


AutoConfig.register("vlcap-encoder", EncoderConfig)
AutoModel.register(EncoderConfig, Encoder)
