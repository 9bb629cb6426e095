"""Reads a model folder, which may be a stranger's: JSON and safetensors, checked before memory is allocated.

Only the settings known here are read from a config, so nothing in it can name code, kernels or files. The model that
it describes is first made on torch's meta device, without memory. Then the names and shapes of its weights are compared
with the header of model.safetensors. So a config cannot ask for more memory than the file has weights for.
"""

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from timm.models import build_model_with_cfg
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.activations import ACT2FN

from ..errors import VlcapError, reason
from ..files.json_file import load_json
from .tokenizer import EOS, PAD, START

MAX_GRID = 128  # patches on a side of the picture
MAX_CLIP = 2**25  # pixels of all frames of a clip: 32 of 1024 x 1024
MAX_SIZE = 2**31  # largest number in a config
MAX_BEAMS = 64
MAX_SETTING = 10_000  # largest penalty, temperature or count in generation_config.json
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# Arguments with which timm's models take another form, or read files of timm's own.
FORMS = ("features_only", "feature_cls", "out_indices", "pruned")
NESTED = "trunk_args"  # the one argument that holds arguments: those of the model under LookupViT's blocks
LAYERS = ("depth", "depths", "layers", "num_layers", "num_blocks")
DTYPES = ("F64", "F32", "F16", "BF16")
DECODER = (
    "vocab_size",
    "n_positions",
    "n_embd",
    "n_layer",
    "n_head",
    "n_inner",
    "activation_function",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "layer_norm_epsilon",
    "initializer_range",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
DECODER_SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
GENERATION = {
    "max_new_tokens": int,
    "min_new_tokens": int,
    "num_beams": int,
    "no_repeat_ngram_size": int,
    "top_k": int,
    "length_penalty": float,
    "repetition_penalty": float,
    "temperature": float,
    "top_p": float,
    "do_sample": bool,
    "decoder_start_token_id": int,
    "bos_token_id": int,
    "eos_token_id": int,
    "pad_token_id": int,
}


class ModelFolderError(VlcapError, ValueError):
    """A model folder cannot be loaded. The message says which of its files is wrong, and why."""


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model folder.

    Raises:
        ModelFolderError: The file is missing, too large, or does not hold a JSON object.
    """
    value = load_json(path, name=path.name, error=ModelFolderError)
    if not isinstance(value, dict):
        raise ModelFolderError(f"{path.name}: not a JSON object")
    return value


def decoder_config(values: Any, cross_attention: bool = True) -> GPT2Config:
    """The decoder's part of a captioner's config, or the config of a decoder.

    Args:
        values: What config.json says.
        cross_attention: Whether the decoder has cross-attention.

    Raises:
        ModelFolderError: The decoder is not a GPT-2, or its values do not fit.
    """
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind != "gpt2":
        raise ModelFolderError(
            f"config.json: its decoder is not a GPT-2 (model_type {kind!r:.100}): decoders have the layout of gpt2, "
            "distilgpt2, gpt2-medium or DialoGPT"
        )
    known = {name: values[name] for name in DECODER if name in values}
    check_numbers(known)
    for name in DECODER_SIZES:
        if not isinstance(known.get(name, 1), int) or known.get(name, 1) < 1:
            raise ModelFolderError(f"config.json: {name} is {known[name]!r:.100}")
    if (inner := known.get("n_inner")) is not None and (not isinstance(inner, int) or inner < 1):
        raise ModelFolderError(f"config.json: n_inner is {inner!r:.100}")
    if not isinstance(name := known.get("activation_function", "gelu_new"), str) or name not in ACT2FN:
        raise ModelFolderError(f"config.json: activation_function is {name!r:.100}")
    try:
        return GPT2Config(**known, add_cross_attention=cross_attention, is_decoder=cross_attention)
    except Exception as error:  # Hugging Face's own checks
        raise ModelFolderError(f"config.json: {' '.join(str(error).split()):.300}") from None


def describe_decoder(config: GPT2Config) -> GPT2LMHeadModel:
    """The decoder on the meta device, without memory, if all of its settings fit together.

    Raises:
        ModelFolderError: They do not.
    """
    try:
        with torch.device("meta"):
            return GPT2LMHeadModel(config)
    except Exception as error:  # settings that do not fit make Hugging Face and torch raise anything
        raise ModelFolderError(f"config.json describes no decoder that works: {reason(error)}") from error


def check_encoder_settings(architecture: Any, model_args: Any) -> None:
    """Refuses settings that would make timm download or open a file instead of building one of its models.

    Raises:
        ModelFolderError: The architecture is unknown, or an argument is not one of a model.
    """
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ModelFolderError(f"{architecture!r:.100} is not a known architecture")
    _check_arguments("model_args", model_args)
    if NESTED in (model_args or {}):
        _check_arguments(NESTED, model_args[NESTED])


def _check_arguments(name: str, values: Any) -> None:
    if not isinstance(values, dict):
        raise ModelFolderError(f"{name} is {values!r:.100}, not an object")
    reserved = {*inspect.signature(timm.create_model).parameters, *inspect.signature(build_model_with_cfg).parameters}
    if refused := sorted({*reserved, *FORMS} & values.keys()):
        raise ModelFolderError(f"{name} may not have {', '.join(refused)}")
    check_numbers({key: value for key, value in values.items() if (name, key) != ("model_args", NESTED)})


def check_numbers(values: Mapping[str, Any]) -> None:
    """Raises ModelFolderError if a config has a number that cannot be a size, or a list that is not of numbers."""
    for name, value in values.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, (int, float)) and not abs(each) < MAX_SIZE:  # NaN is refused as well
                raise ModelFolderError(f"{name} is {each}")
            if not isinstance(each, (int, float, str, type(None))):
                raise ModelFolderError(f"{name} is {each!r:.100}")
        if isinstance(value, list) and len(value) > 64:
            raise ModelFolderError(f"{name} has {len(value)} numbers")


def generation_config(values: Mapping[str, Any], decoder: GPT2Config) -> GenerationConfig:
    """The decoding settings of a captioner.

    Raises:
        ModelFolderError: A setting is unknown, or out of range.
    """
    given = {
        name: value
        for name, value in values.items()
        if value is not None and not name.startswith("_") and name != "transformers_version"
    }
    early_stopping = given.pop("early_stopping", False)
    for name, value in given.items():
        kind: Any = GENERATION.get(name)
        if kind is None:
            raise ModelFolderError(f"generation_config.json: {name:.100} is not a known setting")
        fits = (
            isinstance(value, bool)
            if kind is bool
            else (
                isinstance(value, (int, float) if kind is float else int)
                and not isinstance(value, bool)
                and abs(value) <= MAX_SETTING
            )
        )
        limit = {"num_beams": MAX_BEAMS, "max_new_tokens": decoder.n_positions - 1}.get(name, decoder.vocab_size)
        if not fits or (kind is float and abs(value) > 100) or (kind is int and not 0 <= value <= limit):
            raise ModelFolderError(f"generation_config.json: {name} is {value!r:.100}")
    if early_stopping not in (True, False, "never"):
        raise ModelFolderError(f"generation_config.json: early_stopping is {early_stopping!r:.100}")
    if (
        min(given.get(name, 1) for name in ("num_beams", "max_new_tokens")) < 1
        or min(given.get(name, 1) for name in ("repetition_penalty", "temperature", "top_p")) <= 0
    ):
        raise ModelFolderError("generation_config.json: num_beams, max_new_tokens and penalties must be above 0")
    return GenerationConfig(
        **{
            "max_new_tokens": decoder.n_positions - 1,
            "decoder_start_token_id": START,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
            **given,
            "early_stopping": early_stopping,
        }
    )


class WeightFile:
    """The model.safetensors of a folder. Only its header is read at first.

    Args:
        folder: The folder.
        named: The name of a weight in the model by its name in the file.

    Raises:
        ModelFolderError: The file is missing or damaged.
    """

    def __init__(self, folder: Path, named: Callable[[str], str] = str):
        path = folder / "model.safetensors"
        if not path.is_file():
            pickles = sorted(each.name for each in folder.iterdir() if each.suffix in PICKLES)
            pickled = f", only {pickles[0]:.100}, a pickle, which could run code: convert it" if pickles else ""
            raise ModelFolderError(f"no model.safetensors in it{pickled}")
        try:
            self.file = safe_open(path, framework="pt")
            self.shapes, self.kinds, self.stored = {}, {}, {}
            for stored in self.file.keys():  # noqa: SIM118 - not a dict
                part, name = self.file.get_slice(stored), named(stored)
                self.shapes[name], self.kinds[name] = tuple(part.get_shape()), part.get_dtype()
                self.stored[name] = stored
        except Exception as error:  # a SafetensorError, or an error of its Rust code
            raise ModelFolderError(f"model.safetensors is damaged ({error!s:.200})") from None

    def check_depth(self, layers: Any) -> None:
        """Refuses more layers than the file has weights, before a model with so many layers is described."""
        if not isinstance(layers, int) or layers > len(self.shapes):
            raise ModelFolderError(
                f"config.json has {layers!r:.100} layers, model.safetensors {len(self.shapes)} weights"
            )

    def check_parts(self, model_args: Mapping[str, Any]) -> None:
        """The same for an encoder's arguments, and for those of the model under its blocks."""
        for values in (model_args, model_args.get(NESTED) or {}):
            for counts in (values[name] for name in LAYERS if values.get(name) is not None):
                for count in counts if isinstance(counts, list) else [counts]:
                    self.check_depth(count)

    @contextmanager
    def bounds(self) -> Iterator[None]:
        """While a model is described: ends that when it has far more parts than the file has weights.

        Whatever argument asks for them. Without memory, parts still take time.
        """
        most, made, thread = 10_000 + 20 * len(self.shapes), 0, threading.get_ident()

        def count(*part: Any) -> None:
            nonlocal made
            made += threading.get_ident() == thread
            if made > most:
                raise ModelFolderError(f"it has more than {most} parts, model.safetensors {len(self.shapes)} weights")

        hooks = [register_module_parameter_registration_hook(count), register_module_module_registration_hook(count)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def read(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The weights of `model`, which is on the meta device.

        Raises:
            ModelFolderError: Weights are missing, or have another shape or type.
        """
        own = model.state_dict(keep_vars=True)
        there = {id(own[name]) for name in self.shapes if name in own}
        if missing := [name for name, weight in own.items() if id(weight) not in there]:  # tied ones are there once
            raise ModelFolderError(f"model.safetensors lacks {len(missing)} weights, the first is {missing[0]}")
        wanted = {name: tuple(own[name].shape) for name in self.shapes if name in own}
        if wrong := [name for name, shape in wanted.items() if self.shapes[name] != shape]:
            name = wrong[0]
            raise ModelFolderError(
                f"{name} is {wanted[name]} by config.json and {self.shapes[name]} in model.safetensors"
            )
        for name in wanted:  # batch norms count their batches in integers
            if self.kinds[name] not in (DTYPES if own[name].is_floating_point() else ("I64",)):
                raise ModelFolderError(f"{name} has the type {self.kinds[name]} in model.safetensors")
        return {name: self.file.get_tensor(self.stored[name]) for name in wanted}
