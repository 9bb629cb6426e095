"""Loads the parts of a captioner folder or a decoder folder, which may be a stranger's (folder.py checks it)."""

from pathlib import Path

import torch
from huggingface_hub import ModelCard
from transformers import (
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

from ..errors import CaptionerError
from .encoder import complete_older, describe, encoder_config
from .folder import ModelFolderError, WeightFile, decoder_config, describe_decoder, generation_config, read_json
from .tokenizer import EOS, PAD, START, load_tokenizer

MAX_CARD = 1024**2  # bytes; a larger README.md is not read


def load_decoder(folder: str | Path) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerBase]:
    """A text decoder and its tokenizer, from a folder that `vlcap train decoder` wrote.

    Raises:
        CaptionerError: The folder has no decoder, or its files do not fit together.
    """
    folder = Path(folder)
    try:
        config = decoder_config(read_json(folder / "config.json"))
        file = WeightFile(folder)
        file.check_depth(config.n_layer)
        weights = file.read(describe_decoder(config))
        decoder = GPT2LMHeadModel.from_pretrained(None, config=config, state_dict=weights)
        return decoder, load_fitting_tokenizer(folder, decoder)
    except ValueError as error:
        raise CaptionerError(f"no decoder can be loaded from {folder}: {error}") from None


def load_model(folder: Path, dtype: torch.dtype) -> VisionEncoderDecoderModel:
    """The captioning model in a folder.

    Raises:
        ModelFolderError: Files of the folder are missing, damaged, or do not fit together.
    """
    values = read_json(folder / "config.json")
    if values.get("model_type") != "vision-encoder-decoder":
        raise ModelFolderError(f"not a vlcap captioner: config.json has model_type {values.get('model_type')!r:.100}")
    encoder, decoder = encoder_config(values.get("encoder")), decoder_config(values.get("decoder"))
    file = WeightFile(folder)
    complete_older(encoder, file.shapes)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = START, PAD, EOS
    config.tie_word_embeddings = False
    file.check_parts(encoder.model_args)
    file.check_depth(decoder.n_layer)
    with file.bounds():
        described = describe(VisionEncoderDecoderModel, config)
    weights = file.read(described)
    model = VisionEncoderDecoderModel.from_pretrained(None, config=config, state_dict=weights, dtype=dtype)
    path = folder / "generation_config.json"
    model.generation_config = generation_config(read_json(path) if path.exists() else {}, decoder)
    return model


def load_fitting_tokenizer(folder: Path, decoder: GPT2LMHeadModel) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder.

    Raises:
        ModelFolderError: It is missing, damaged, or does not fit the decoder.
    """
    for name in ("tokenizer.json", "tokenizer_config.json"):
        read_json(folder / name)
    try:
        tokenizer = load_tokenizer(folder)
        pieces = len(tokenizer)
    except BaseException as error:  # a panic of the tokenizers library, which is written in Rust, is not an Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise ModelFolderError(f"tokenizer.json is damaged ({' '.join(str(error).split()):.200})") from None
    if pieces != decoder.config.vocab_size or (tokenizer.pad_token_id, tokenizer.eos_token_id) != (PAD, EOS):
        raise ModelFolderError(
            f"its tokenizer has {pieces} pieces, pad {tokenizer.pad_token_id} and end {tokenizer.eos_token_id}; "
            f"its decoder {decoder.config.vocab_size}, {PAD} and {EOS}"
        )
    return tokenizer


def trained_on(folder: Path) -> str:
    """Names of the data sets in a folder's README.md, listed under `datasets:` as in model cards; "" if none."""
    try:
        if (folder / "README.md").stat().st_size > MAX_CARD:
            return ""
        named = ModelCard.load(folder / "README.md").data.get("datasets") or []
    except Exception:  # a captioner without a card, or with a damaged one, is still a captioner
        return ""
    # YAML lists may refer to one another so often that writing them out would never end.
    return ", ".join(each for each in ([named] if isinstance(named, str) else named) if isinstance(each, str))
