"""The captioner: a frozen encoder's compressed tokens, read by a Hugging Face text decoder with cross-attention.

    from vlcap import Captioner
    captioner = Captioner.from_pretrained()          # the bundled one; or a folder, or a hub id
    captioner.caption(["photo.jpg"], budget=5)       # ["a dog running through the grass"]

In the manner of LiT's locked-image tuning (arXiv 2111.07991) and LookupViT's section 3.4. A captioner folder holds
config.json, generation_config.json, model.safetensors and the tokenizer's two files, all of Hugging Face's making.
"""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)
from transformers.modeling_outputs import BaseModelOutput

from .data.images import PixelConfig, load_image
from .errors import VlcapError
from .model.decoding import Watch, find_captions, search_for
from .model.encoder import Encoder, describe, encoder_config
from .model.folder import ModelFolderError, WeightFile, decoder_config, find_folder, generation_config, read_json
from .model.tokenizer import EOS, PAD, START, load_tokenizer

BUNDLED = Path(str(files("vlcap") / "bundled"))
MAX_CARD = 1024**2  # bytes of a README.md that is looked at


class CaptionerError(VlcapError, ValueError):
    """A captioner that can't be loaded or asked for what it hasn't got: what and where."""


@dataclass(frozen=True)
class Caption:
    """One photo's caption.

    Attributes:
        text: What it says.
        budget: Side of the compressed grid that it was read from.
        ms: Its share of the batch's time.
        ids: The decoder's pieces, without start, end and padding.
    """

    text: str
    budget: int
    ms: float
    ids: tuple[int, ...] = ()


def decoder_settings(
    vocab_size: int, width: int, layers: int, heads: int, dropout: float, max_length: int
) -> GPT2Config:
    """Settings of a GPT-2 style decoder with cross-attention, as `build_model` describes them."""
    return GPT2Config(
        vocab_size=vocab_size,
        n_positions=max_length,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        add_cross_attention=True,
        is_decoder=True,
        bos_token_id=START,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )


def build_model(
    encoder: Encoder,
    vocab_size: int,
    width: int = 256,
    layers: int = 3,
    heads: int = 4,
    dropout: float = 0.1,
    max_length: int = 40,
) -> VisionEncoderDecoderModel:
    """A captioning model of a trained encoder, frozen, and a GPT-2 style decoder with random weights.

    Args:
        encoder: Its classification heads are dropped.
        vocab_size: Pieces of the tokenizer.
        width: Width of the decoder; where it isn't the encoder's, a projection joins them.
        layers: Decoder blocks: self-attention, cross-attention, MLP.
        heads: Attention heads of the decoder.
        dropout: On embeddings, attention and residual branches of the decoder.
        max_length: Longest caption in pieces, start and end included.
    """
    encoder = encoder.without_heads()
    decoder = decoder_settings(vocab_size, width, layers, heads, dropout, max_length)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = START, PAD, EOS
    model = VisionEncoderDecoderModel(config=config)
    model.encoder.load_state_dict(encoder.state_dict())
    model.encoder.freeze()
    model.generation_config = GenerationConfig(
        decoder_start_token_id=START,
        pad_token_id=PAD,
        eos_token_id=EOS,
        max_new_tokens=max_length - 1,
        num_beams=4,
        length_penalty=1.0,
    )
    return model


class Captioner:
    """Photos to captions.

    Args:
        model: What `build_model` makes.
        tokenizer: The decoder's.
        name: What to call it in messages and results.
        trained_on: Names of the data it was trained on, "" where that isn't known.
    """

    def __init__(
        self,
        model: VisionEncoderDecoderModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "captioner",
        trained_on: str = "",
    ):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.trained_on = trained_on
        self._transform = self.pixels.eval_transform()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path | None = None,
        device: str | None = None,
        dtype: torch.dtype | None = torch.float32,
        int8: bool = False,
    ) -> "Captioner":
        """A captioner out of a folder or, by its id, the Hugging Face hub; the bundled one for None.

        Only JSON and safetensors are read, and checked before memory is taken (model_folder.py); nothing that came with
        the model is run.

        Args:
            name: Folder, hub id, or None.
            device: None for a GPU if there is one and int8 doesn't rule it out.
            dtype: Of the weights in memory, whatever they were saved in; None for what the device is fastest with.
            int8: Linear layers with 8-bit weights (quantize.py): faster on a CPU, a little less exact.

        Raises:
            CaptionerError: There is no captioner there, or it isn't one of ours; int8 anywhere but on a CPU.
        """
        device = device or ("cpu" if int8 or not torch.cuda.is_available() else "cuda")
        if int8 and torch.device(device).type != "cpu":
            raise CaptionerError(f"int8 weights are for CPUs, not for {device}: there, use dtype=torch.bfloat16")
        if dtype is None:
            dtype = torch.float32 if int8 else fastest_dtype(device)
        if name is None and not (BUNDLED / "config.json").is_file():
            raise CaptionerError("no bundled captioner in this installation: name one with --model FOLDER")
        source = str(BUNDLED) if name is None else str(name)
        try:
            folder = find_folder(source)
            model = _load_model(folder, dtype)
            tokenizer = _load_tokenizer(folder, model.decoder)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CaptionerError(f"no captioner can be loaded from {source}: {reason}") from error
        model.encoder.freeze()
        if int8:
            from .model.quantize import quantize

            quantize(model)
        name = "bundled" if name is None else Path(source).resolve().name
        return cls(model.to(device), tokenizer, name=name, trained_on=_trained_on(folder))

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Writes the captioner folder; `dtype` casts the weights for it, bfloat16 halving its size.

        Raises:
            CaptionerError: Its weights were made int8, which is for running it, not for keeping it.
        """
        if any(type(module).__name__ == "Int8Linear" for module in self.model.modules()):
            raise CaptionerError("an int8 captioner can't be saved: load it without int8 and save that")
        weights = self.model.state_dict(keep_vars=True)  # the parameters themselves: a tied one is kept once
        cast = {
            id(weight): weight.detach().to(dtype if dtype and weight.is_floating_point() else weight.dtype)
            for weight in weights.values()
        }
        state = {name: cast[id(weight)] for name, weight in weights.items()}
        self.model.save_pretrained(folder, state_dict=state)
        self.tokenizer.save_pretrained(folder)

    @property
    def budgets(self) -> list[int]:
        """Sides of the compressed grid that it was trained for."""
        return self.model.encoder.config.budgets

    @property
    def default_budget(self) -> int:
        return self.model.encoder.budget

    @property
    def pixels(self) -> PixelConfig:
        return self.model.encoder.pixels

    def generation(self, **changes: Any) -> dict[str, Any]:
        """The decoding settings in force: the model's own, with changes."""
        own = self.model.generation_config.to_diff_dict() | changes
        return {name: value for name, value in own.items() if not name.endswith(("_token_id", "_version"))}

    def preprocess(self, photos: Sequence[Any]) -> torch.Tensor:
        """Photos, as anything that `load_image` takes, -> uint8 pixels (B, 3, S, S)."""
        return torch.stack([self.read(photo) for photo in photos])

    def read(self, photo: Any) -> torch.Tensor:
        """One photo, as anything that `load_image` takes, -> uint8 pixels (3, S, S)."""
        return self._transform(load_image(photo))

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor, budget: int | None = None) -> torch.Tensor:
        """uint8 pixels (B, 3, S, S) -> compressed tokens (B, M, D)."""
        return self.model.encoder(self.normalize(pixels), budget=budget).last_hidden_state

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 pixels (B, 3, S, S) -> what the encoder computes with, on its device."""
        return self.pixels.normalize(pixels.to(self.model.device)).to(self.model.dtype)

    def decode(self, tokens: torch.Tensor, **generation: Any) -> list[str]:
        """Compressed tokens (B, M, D) -> captions; `generation` overrides the model's generation_config."""
        return [self.text(ids) for ids in self.decode_ids(tokens, **generation)]

    def decode_ids(
        self,
        tokens: torch.Tensor,
        watch: Watch | None = None,
        **generation: Any,
    ) -> list[tuple[int, ...]]:
        """Compressed tokens (B, M, D) -> the pieces of their captions, without start, end and padding.

        Args:
            tokens: (B, M, D).
            watch: Is shown the first photo's leading pieces after each step, and ends the search by giving True.
            generation: As for `caption`. What `decode.search_for` doesn't know is left to Hugging Face's `generate`.
        """
        search = search_for(self.model, **generation)
        if search is not None:
            found = find_captions(self.model, tokens, search, watch)
        else:
            found = self._generate(tokens, watch, **generation)
        return [_without_marks(ids) for ids in found]

    @torch.inference_mode()
    def _generate(self, tokens: torch.Tensor, watch: Watch | None, **generation: Any) -> list[list[int]]:
        # Hugging Face's streamers refuse beams; a stopping criterion sees every step of every search, best beam first.
        def look(ids: torch.Tensor, scores: Any, **unused: Any) -> torch.Tensor:
            stop = watch is not None and watch(ids[0].tolist())
            return torch.full((len(ids),), stop, dtype=torch.bool, device=ids.device)

        if watch is not None:
            generation["stopping_criteria"] = [look]
        # Wrapped afresh each time: beam search expands what it is given in place.
        outputs = BaseModelOutput(last_hidden_state=tokens)
        return self.model.generate(encoder_outputs=outputs, **generation).tolist()

    def text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def caption(
        self,
        photos: Sequence[Any],
        budget: int | None = None,
        batch_size: int = 32,
        **generation: Any,
    ) -> list[str]:
        """Captions of photos, in their order.

        Args:
            photos: Paths, bytes, binary files or PIL images.
            budget: Side of the compressed grid; None for the model's own.
            batch_size: Photos at a time.
            generation: num_beams, max_new_tokens, length_penalty, do_sample ...: Hugging Face's names.

        Raises:
            ImageError: A photo can't be read.
            ValueError: A budget that doesn't fit the photo's grid.
        """
        batches = (photos[i : i + batch_size] for i in range(0, len(photos), batch_size))
        return [
            caption.text
            for batch in batches
            for caption in self.caption_pixels(self.preprocess(batch), budget=budget, **generation)
        ]

    def caption_pixels(self, pixels: torch.Tensor, budget: int | None = None, **generation: Any) -> Iterator[Caption]:
        """Captions of one batch of uint8 pixels (B, 3, S, S), with the time each took."""
        start = time.perf_counter()
        found = self.decode_ids(self.encode(pixels, budget), **generation)
        ms = (time.perf_counter() - start) * 1000 / len(found)
        for ids in found:
            yield Caption(self.text(ids), budget=budget or self.default_budget, ms=ms, ids=ids)

    def stream(self, pixels: torch.Tensor, budget: int | None = None, **generation: Any) -> Iterator[Caption]:
        """One photo's caption as it grows: what leads the search so far, and last the finished one.

        Decoding runs beside the reader and never waits for it: what a slow reader misses is left out. It ends when
        the reader closes the iterator.

        Args:
            pixels: uint8 (1, 3, S, S).
            budget: Side of the compressed grid; None for the model's own.
            generation: As for `caption`.
        """
        steps: queue.SimpleQueue[tuple[Any, bool]] = queue.SimpleQueue()  # (caption or error, whether it is the last)
        budget = budget or self.default_budget
        start = time.perf_counter()
        closed = threading.Event()

        def found(ids: Sequence[int]) -> Caption:
            kept = _without_marks(ids)
            return Caption(self.text(kept), budget=budget, ms=(time.perf_counter() - start) * 1000, ids=kept)

        def watch(ids: Sequence[int]) -> bool:
            steps.put((found(ids), False))
            return closed.is_set()

        def work() -> None:
            try:
                [ids] = self.decode_ids(self.encode(pixels, budget), watch=watch, **generation)
                steps.put((found(ids), True))
            except Exception as error:
                steps.put((error, True))

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            last = False
            while not last:
                step, last = steps.get()
                while not steps.empty():
                    step, last = steps.get()
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            closed.set()
            worker.join()


def fastest_dtype(device: str) -> torch.dtype:
    """bfloat16 where a device multiplies matrices in it, float32 elsewhere: emulated, it is far slower."""
    if torch.device(device).type == "cpu":
        able = torch.cpu.get_capabilities()
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32


def load_decoder(folder: str | Path) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerBase]:
    """A text decoder and its tokenizer out of a folder that `vlcap train decoder` wrote.

    Raises:
        CaptionerError: There is none, or its files don't fit together.
    """
    folder = Path(folder)
    try:
        config = decoder_config(read_json(folder / "config.json"))
        file = WeightFile(folder)
        file.check_depth(config.n_layer)
        with torch.device("meta"):
            shapes = GPT2LMHeadModel(config)
        decoder = GPT2LMHeadModel.from_pretrained(None, config=config, state_dict=file.read(shapes))
        return decoder, _load_tokenizer(folder, decoder)
    except ValueError as error:
        raise CaptionerError(f"no decoder can be loaded from {folder}: {error}") from None


def _without_marks(ids: Sequence[int]) -> tuple[int, ...]:
    return tuple(piece for piece in ids if piece not in (PAD, START, EOS))


def _load_model(folder: Path, dtype: torch.dtype) -> VisionEncoderDecoderModel:
    """Raises ModelFolderError where the folder's files are missing, damaged, or don't fit together."""
    values = read_json(folder / "config.json")
    if values.get("model_type") != "vision-encoder-decoder":
        raise ModelFolderError(f"not a vlcap captioner: config.json has model_type {values.get('model_type')!r:.100}")
    encoder, decoder = encoder_config(values.get("encoder")), decoder_config(values.get("decoder"))
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = START, PAD, EOS
    config.tie_word_embeddings = False
    file = WeightFile(folder)
    file.check_depth(encoder.model_args.get("depth", 0))
    file.check_depth(decoder.n_layer)
    weights = file.read(describe(VisionEncoderDecoderModel, config))
    model = VisionEncoderDecoderModel.from_pretrained(None, config=config, state_dict=weights, dtype=dtype)
    path = folder / "generation_config.json"
    model.generation_config = generation_config(read_json(path) if path.exists() else {}, decoder)
    return model


def _load_tokenizer(folder: Path, decoder: GPT2LMHeadModel) -> PreTrainedTokenizerBase:
    """Raises ModelFolderError where there is none that fits the decoder."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        read_json(folder / name)
    try:
        tokenizer = load_tokenizer(folder)
        pieces = len(tokenizer)
    except BaseException as error:  # a panic of the tokenizers library, which is written in Rust, is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise ModelFolderError(f"tokenizer.json is damaged ({' '.join(str(error).split()):.200})") from None
    if pieces != decoder.config.vocab_size or (tokenizer.pad_token_id, tokenizer.eos_token_id) != (PAD, EOS):
        raise ModelFolderError(
            f"its tokenizer has {pieces} pieces, pad {tokenizer.pad_token_id} and end {tokenizer.eos_token_id}; "
            f"its decoder {decoder.config.vocab_size}, {PAD} and {EOS}"
        )
    return tokenizer


def _trained_on(folder: Path) -> str:
    """The data sets that a folder's README.md names as the hub's model cards do: `datasets:` in its YAML head."""
    try:
        if (folder / "README.md").stat().st_size > MAX_CARD:
            return ""
        named = ModelCard.load(folder / "README.md").data.get("datasets") or []
    except Exception:  # a captioner without a card, or with one broken in whatever way, is a captioner
        return ""
    # Lists of lists may refer to one another so often that nobody can write them out.
    return ", ".join(each for each in ([named] if isinstance(named, str) else named) if isinstance(each, str))
