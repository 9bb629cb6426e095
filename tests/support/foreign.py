"""Small captioners of others with random weights, in local folders: vit-gpt2, BLIP, GIT by transformers' classes."""

from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    CLIPImageProcessor,
    GenerationConfig,
    GitConfig,
    GitForCausalLM,
    GPT2Config,
    GPT2TokenizerFast,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)

from tests.support import drawings

SIDE, PATCH, WIDTH = 32, 8, 32  # pixels, pixels, of all layers
KINDS = ("vit-gpt2", "blip", "git")
VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}


def write(kind: str, folder: Path) -> Path:
    """A captioner folder of this kind."""
    torch.manual_seed(0)
    model, processor, tokenizer = {"vit-gpt2": _vit_gpt2, "blip": _blip, "git": _git}[kind]()
    for name, weight in model.named_parameters():  # with initial weights, all photos would get the same caption
        if weight.dim() > 1 and "embed" not in name and "wte" not in name:
            weight.data.mul_(8)
    for part in (model, processor, tokenizer):
        part.save_pretrained(folder)
    return folder


def _vit_gpt2():
    bytes_and_pairs = ByteLevelBPETokenizer()
    bytes_and_pairs.train_from_iterator(drawings.captions(40), vocab_size=300, special_tokens=["<|endoftext|>"])
    tokenizer = GPT2TokenizerFast(tokenizer_object=bytes_and_pairs._tokenizer, eos_token="<|endoftext|>")
    decoder = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=WIDTH,
        n_layer=2,
        n_head=2,
        n_positions=24,
        add_cross_attention=True,
        is_decoder=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**VISION), decoder)
    config.decoder_start_token_id = config.pad_token_id = config.eos_token_id = 0
    model = VisionEncoderDecoderModel(config=config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=0, bos_token_id=0, max_new_tokens=8, num_beams=2
    )
    processor = ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    return model, processor, tokenizer


def _words() -> BertTokenizer:
    words = sorted({word for text in drawings.captions(40) for word in text.lower().replace(".", " ").split()})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    return BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})


def _blip():
    tokenizer = _words()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "encoder_hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 24,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "sep_token_id": 3,
        "pad_token_id": 0,
    }
    config = BlipConfig(text_config=text, vision_config=VISION | {"initializer_range": 0.02})
    return BlipForConditionalGeneration(config), BlipImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer


def _git():
    tokenizer = _words()
    config = GitConfig(
        vision_config=VISION,
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=64,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    size, crop = {"shortest_edge": SIDE}, {"height": SIDE, "width": SIDE}
    return GitForCausalLM(config), CLIPImageProcessor(size=size, crop_size=crop), tokenizer
