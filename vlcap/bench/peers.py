"""What `vlcap bench` measures: encoders and captioners with random weights, and what reading their weights takes.

Speed does not depend on the values of weights.
"""

from typing import Any

import torch
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    GitConfig,
    GitForCausalLM,
    GPT2Config,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

from encoders import create_encoder

from ..engines.pytorch import TorchEngine
from ..model.build import build_model
from ..model.encoder import Encoder
from ..model.quantize import Int8Linear
from ..model.search import Search, Written, find_captions
from . import machine

BASE, VIT = "lookupvit_base_patch16_224", "vit_base_patch16_224"
PIECES = 20  # in every caption
EXACTLY: dict[str, Any] = {"min_new_tokens": PIECES, "max_new_tokens": PIECES}
VOCABULARY = 8000
SMOLVLM_IMAGE, SMOLVLM_TOKENS = 49190, 64  # the placeholder for a photo's tokens, and their number per tile
SMOLVLM_PROMPT = 20  # pieces of "<|im_start|>User: ... Can you describe this image?<end_of_utterance> Assistant:"


def encoder(name: str, **options: Any) -> torch.nn.Module:
    """An encoder without heads, in eval mode."""
    return create_encoder(name, num_classes=0, **options).eval()


def captioner() -> VisionEncoderDecoderModel:
    """LookupViT-B/16 with a decoder of 6 layers, 512 wide."""
    return build_model(
        Encoder.create(BASE), vocab_size=VOCABULARY, width=512, layers=6, heads=8, max_length=PIECES + 1
    ).eval()


def vit_gpt2() -> VisionEncoderDecoderModel:
    """ViT-B/16 with GPT-2, as Hugging Face's users run it."""
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(), GPT2Config(add_cross_attention=True))
    config.decoder_start_token_id = config.pad_token_id = config.eos_token_id = config.decoder.eos_token_id
    model = VisionEncoderDecoderModel(config=config).eval()
    model.generation_config.decoder_start_token_id = model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.pad_token_id = config.pad_token_id
    return model


def blip() -> BlipForConditionalGeneration:
    """BLIP-base, the shape of Salesforce/blip-image-captioning-base: ViT-B/16 and 12 layers of BERT's width."""
    return BlipForConditionalGeneration(
        BlipConfig(text_config={"num_attention_heads": 12}, vision_config={"image_size": 384})
    ).eval()


def git() -> GitForCausalLM:
    """GIT-base, the shape of microsoft/git-base-coco: 6 layers that read the 197 tokens of ViT-B/16 as a prefix."""
    return GitForCausalLM(GitConfig()).eval()


def smolvlm() -> SmolVLMForConditionalGeneration:
    """The shape of HuggingFaceTB/SmolVLM-256M-Instruct: SigLIP-B/16 at 512 px, and SmolLM2-135M."""
    text = {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "vocab_size": 49280,
        "pad_token_id": 2,
    }
    vision = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 512,
        "patch_size": 16,
    }
    config = SmolVLMConfig(
        text_config=text, vision_config=vision, scale_factor=4, image_token_id=SMOLVLM_IMAGE, pad_token_id=2
    )
    return SmolVLMForConditionalGeneration(config).eval()


def of_reading(read: int, ms: float) -> float:
    """Share of a caption's time that it takes to read so many bytes for each piece. No search can read less."""
    return read / (machine.memory_bandwidth() * 1e9) * PIECES / ms * 1000


def weight_bytes(model: VisionEncoderDecoderModel) -> int:
    """Bytes of the weights that a decoder reads for each piece: all but embeddings and the projections of tokens."""
    total = 0
    for name, module in model.decoder.named_modules():
        if name.endswith("crossattention.c_attn"):
            continue
        if isinstance(module, Int8Linear):
            total += module.nbytes
        elif not isinstance(module, torch.nn.Embedding):
            total += sum(weight.nbytes for weight in module.parameters(recurse=False))
    return total


def decode(model: VisionEncoderDecoderModel, tokens: torch.Tensor, search: Search) -> list[Written]:
    """Our decoding of compressed tokens (B, M, D) by PyTorch, without a tokenizer."""
    return find_captions(TorchEngine(model, tokenizer=None).start(tokens, search), search)
