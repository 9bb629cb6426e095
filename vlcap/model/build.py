"""Builds a captioning model: a trained encoder, frozen, and a GPT-2 style decoder with random weights."""

from typing import Any

from transformers import GenerationConfig, GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel

from .encoder import Encoder
from .tokenizer import EOS, PAD, START


def decoder_settings(
    vocab_size: int, width: int, layers: int, heads: int, dropout: float, max_length: int, **further: Any
) -> GPT2Config:
    """Settings of a GPT-2 style decoder with cross-attention; `build_model` describes the arguments."""
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
        **further,
    )


def build_model(
    encoder: Encoder,
    vocab_size: int,
    width: int = 256,
    layers: int = 3,
    heads: int = 4,
    dropout: float = 0.1,
    max_length: int = 40,
    **further: Any,
) -> VisionEncoderDecoderModel:
    """A captioning model of a trained encoder, frozen, and a GPT-2 style decoder with random weights.

    Args:
        encoder: Trained encoder. Its classification heads are dropped.
        vocab_size: Number of pieces in the tokenizer.
        width: Width of the decoder. If the encoder has another width, a projection joins them.
        layers: Number of decoder blocks: self-attention, cross-attention, MLP.
        heads: Number of attention heads in the decoder.
        dropout: Dropout rate of the decoder's embeddings, attention and residual branches.
        max_length: Length of the longest caption in pieces, start and end included.
        further: Other settings of a decoder that was pretrained elsewhere, with the names of `GPT2Config`.
    """
    encoder = encoder.without_heads()
    decoder = decoder_settings(vocab_size, width, layers, heads, dropout, max_length, **further)
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
