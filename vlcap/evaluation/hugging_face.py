"""Third-party captioners, by Hugging Face: rows of a comparison that people know.

    vlcap compare --model RUN/captioner --model hf:nlpconnect/vit-gpt2-image-captioning --data DIR --out RESULTS

`VisionEncoderDecoderModel` (vit-gpt2), BLIP (arXiv 2201.12086) and GIT (arXiv 2205.14100), run by Hugging Face's own
`generate` with the settings of their folder. They have no choice of budget: theirs is the number of tokens that their
image encoder gives. The encoder's work is counted and timed as ours: the encoder alone, and then decoding from its
tokens.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, PreTrainedModel

from encoders.cost import count_gflops_of, count_parameters

from ..captioner import Caption
from ..data.images import load_image
from ..errors import CaptionerError, reason
from ..files.writing import digest_file
from ..model.encoder import EncoderConfig
from ..model.finding import find_folder
from ..model.folder import PICKLES, read_json

PREFIX = "hf:"
# What a repository of the hub may hold that is read: no code and no pickle.
WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
READ = ("*.json", "*.txt", "*.model", *WEIGHTS)
# The image encoder of each kind of model that is known.
ENCODERS: dict[str, Callable[[Any], PreTrainedModel]] = {
    "vision-encoder-decoder": lambda model: model.encoder,
    "blip": lambda model: model.vision_model,
    "git": lambda model: model.git.image_encoder,
}
UNUSED = "pooler."  # weights that some folders lack: captions do not depend on them
INNER = ("_", "output_", "return_", "use_cache")  # beginnings of settings that change no caption
MARKS = ("_token_id", "_version")
LIMIT = 20  # new pieces of a caption: Hugging Face's default, where a folder has no limit
SIZES = ("n_positions", "max_position_embeddings")


class HuggingFaceCaptioner:
    """Photos to captions by a third-party model, with as much of `Captioner` as an evaluation and a comparison need.

    Letters: B photos, S side of the pixels, N tokens of the image encoder, D their width.

    Args:
        model: The model.
        processor: Its image processor.
        tokenizer: Its tokenizer.
        name: Its name in messages and results.
        files: Digests of the files that it was loaded from.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, tokenizer: Any, name: str, files: dict[str, str]):
        self.model = model.eval()
        self.processor = processor
        self.tokenizer = tokenizer
        self.name = name
        self.files = files
        self.encoder = ENCODERS[model.config.model_type](model)
        # BLIP's text decoder has generation settings of its own, and they are the ones that its `generate` uses.
        self.decoder = model.text_decoder if model.config.model_type == "blip" else model

    @cached_property
    def _blank(self) -> torch.Tensor:
        """Pixels of a black photo."""
        return self.preprocess([Image.new("RGB", (64, 64))])

    @property
    def image_size(self) -> int:
        """S, the side of the pixels; the longer one if they are not square."""
        return max(self._blank.shape[-2:])

    @property
    def architecture(self) -> str:
        """Hugging Face's name of the image encoder's kind."""
        return self.encoder.config.model_type

    @cached_property
    def tokens(self) -> int:
        """N, the tokens that the decoder reads; class tokens included."""
        return self.encode(self._blank)[1][0].shape[1]

    @property
    def budgets(self) -> list[int]:
        """Its only budget: the number of its tokens."""
        return [self.tokens]

    @property
    def default_budget(self) -> int:
        return self.tokens

    @property
    def parameters(self) -> tuple[int, int]:
        """Number of weights of the image encoder, and of all the rest."""
        encoder = count_parameters(self.encoder)
        return encoder, count_parameters(self.model) - encoder

    @property
    def longest(self) -> int:
        """Most pieces of a caption."""
        model = self.model
        config = model.config.decoder if model.config.model_type == "vision-encoder-decoder" else self.decoder.config
        return next((getattr(config, name) for name in SIZES if getattr(config, name, None)), 512) - 1

    def generation(self, **changes: Any) -> dict[str, Any]:
        """The decoding settings of the model, with changes."""
        own = self.decoder.generation_config.to_diff_dict()
        settings = {key: value for key, value in own.items() if not key.startswith(INNER) and not key.endswith(MARKS)}
        return settings | self._limited(changes)

    def _limited(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Changes of the settings, with a limit for the length if nobody has set one."""
        own = self.decoder.generation_config
        if own.max_length or own.max_new_tokens or changes.keys() & {"max_length", "max_new_tokens"}:
            return changes
        return {**changes, "max_new_tokens": min(LIMIT, self.longest)}

    def token_count(self, budget: int) -> int:
        return self.tokens

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Pieces of each caption, its end included."""
        return [len(ids) + 1 for ids in self.tokenizer([*texts], add_special_tokens=False)["input_ids"]]

    def identity(self) -> dict[str, Any]:
        """What its captions depend on, besides the settings and the photos."""
        return {"files": self.files}

    def preprocess(self, photos: Sequence[Any]) -> torch.Tensor:
        """Photos, in any form that `load_image` takes -> pixels (B, 3, S, S), by its own image processor."""
        images = [load_image(photo) for photo in photos]
        return self.processor(images=images, return_tensors="pt")["pixel_values"].to(self.model.device)

    @torch.inference_mode()
    def caption_pixels(self, pixels: torch.Tensor, budget: int | None = None, **generation: Any) -> list[Caption]:
        """Captions of one batch of pixels (B, 3, S, S), with their times.

        Raises:
            CaptionerError: Another budget than its own is asked for.
        """
        if budget not in (None, self.tokens):
            own = f"it gives {self.tokens} tokens"
            raise CaptionerError(f"{self.name}: {self.architecture} has no choice of budget: {own}")
        start = time.perf_counter()
        ids = self.model.generate(pixel_values=pixels, **self._limited(generation))
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        ms = (time.perf_counter() - start) * 1000 / len(texts)
        return [Caption(" ".join(text.split()), budget=self.tokens, ms=ms) for text in texts]

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor, budget: int | None = None) -> tuple[torch.Tensor, Any]:
        """Pixels (B, 3, S, S) -> themselves and the image encoder's output, for `decode_ids`."""
        return pixels, self.encoder(pixel_values=pixels)

    @torch.inference_mode()
    def decode_ids(self, tokens: tuple[torch.Tensor, Any], **generation: Any) -> torch.Tensor:
        """The result of `encode` for one photo -> the pieces of its caption. The image encoder does not run again."""
        pixels, output = tokens
        with _giving(self.encoder, output):
            return self.model.generate(pixel_values=pixels, **self._limited(generation))

    def encoder_gflops(self, budget: int | None = None) -> float:
        """GFLOPs (2 x MACs) of its image encoder for one photo, as encoders/cost.py counts them."""
        return count_gflops_of(lambda: self.encode(self._blank))

    def decoder_gflops(self, budget: int, length: int, **generation: Any) -> float:
        """GFLOPs of decoding one caption of `length` pieces from the tokens: every beam, and all that is done twice."""
        tokens = self.encode(self._blank)
        exactly = {"min_new_tokens": length, "max_new_tokens": length}
        return count_gflops_of(lambda: self.decode_ids(tokens, **generation | exactly))


def load_hugging_face(name: str, device: str | None = None) -> HuggingFaceCaptioner:
    """Loads a third-party captioner, in float32.

    Only JSON, vocabularies and safetensors are read. No code of the folder is run.

    Args:
        name: Folder, or ID or ID@REVISION on the Hugging Face hub; with or without "hf:" before it.
        device: Device to run on; None for a GPU if there is one, otherwise the CPU.

    Raises:
        CaptionerError: There is no captioner of a known kind in that place, its weights are not safetensors, or some of
            them are missing.
    """
    name = name.removeprefix(PREFIX)
    try:
        folder = find_folder(name, READ)
        _check(folder)
        safely = {"local_files_only": True, "trust_remote_code": False}
        processor = AutoImageProcessor.from_pretrained(folder, **safely)
        tokenizer = AutoTokenizer.from_pretrained(folder, **safely)
        model, loaded = AutoModelForImageTextToText.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **safely
        )
    except CaptionerError as error:
        raise CaptionerError(f"{PREFIX}{name}: {error}") from None
    except Exception as error:  # a folder's settings make these libraries raise anything
        raise CaptionerError(f"{PREFIX}{name}: no captioner can be loaded: {reason(error)}") from error
    if missing := sorted(key for key in loaded["missing_keys"] if UNUSED not in key):
        raise CaptionerError(f"{PREFIX}{name}: its weights lack {len(missing)} tensors, the first is {missing[0]}")
    found = device or ("cuda" if torch.cuda.is_available() else "cpu")
    files = {path.name: digest_file(path)[:16] for path in sorted(folder.iterdir()) if _is_read(path)}
    return HuggingFaceCaptioner(model.to(found), processor, tokenizer, short_name(name), files)


def short_name(name: str) -> str:
    """A name for tables: the last part of a folder or of an ID, with its revision."""
    name = name.removeprefix(PREFIX)
    if Path(name).is_dir():
        return Path(name).resolve().name
    identifier, at, revision = name.partition("@")
    return identifier.rpartition("/")[2] + at + revision


def _check(folder: Path) -> None:
    """Refuses what is no captioner of a known kind, a pickle, and a config that names code.

    Raises:
        CaptionerError, ModelFolderError: The reason, in one line.
    """
    values = read_json(folder / "config.json")
    kind = values.get("model_type")
    if kind not in ENCODERS:
        raise CaptionerError(f"a model of the kind {kind!r:.100}: there are {', '.join(ENCODERS)}")
    encoder = values.get("encoder")
    if isinstance(encoder, dict) and encoder.get("model_type") == EncoderConfig.model_type:
        raise CaptionerError(f"a captioner of vlcap: name it without {PREFIX}")
    if (folder / "adapter_config.json").exists():
        raise CaptionerError("an adapter, which needs another model: merge it into its model first")
    if not any(path.match(pattern) for path in folder.iterdir() for pattern in WEIGHTS):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        pickled = f", only {pickles[0]:.100}, a pickle, which could run code" if pickles else ""
        raise CaptionerError(
            f"no model.safetensors in it{pickled}: convert it, or name a revision that has one, as ID@REVISION"
        )
    if named := sorted(_named_code(values)):
        raise CaptionerError(f"config.json names code that is not run: {named[0]:.100}")


def _named_code(values: Any) -> Iterator[str]:
    """Third-party kernels and classes that a config names, at any depth."""
    left = [values]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            left += each.values()
            for key, value in each.items():
                if key == "auto_map" or (str(key).endswith("attn_implementation") and "/" in str(value)):
                    yield f"{key} {value}"
        elif isinstance(each, list):
            left += each


def _is_read(path: Path) -> bool:
    return path.is_file() and any(path.match(pattern) for pattern in READ)


@contextlib.contextmanager
def _giving(encoder: PreTrainedModel, output: Any) -> Iterator[None]:
    """Lets an image encoder give this output instead of running."""

    def forward(*unused: Any, **kwargs: Any) -> Any:  # `generate` looks for the name kwargs
        return type(output)(**output)  # a new one each time: beam search expands it in place

    encoder.forward = forward
    try:
        yield
    finally:
        del encoder.forward
