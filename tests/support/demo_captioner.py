"""What the demo's tests share: a captioner that writes nonsense, but another one for every photo and budget."""

import itertools

import torch
from PIL import Image

from vlcap.captioner import Captioner
from vlcap.model.build import build_model
from vlcap.model.encoder import Encoder
from vlcap.model.tokenizer import train_tokenizer


def talking_captioner(seed: int = 2, name: str = "tiny_random", trained_on: str = "") -> Captioner:
    words = (
        ["a dog", "two cats", "a small boy", "an old woman", "three birds", "a red car", "the brown horse"],
        ["runs", "sits", "jumps", "waits", "plays", "sleeps"],
        ["on the grass", "near a tree", "in the snow", "under the bridge", "beside the blue water"],
    )
    tokenizer = train_tokenizer([" ".join(parts) for parts in itertools.product(*words)], vocab_size=100)
    torch.manual_seed(seed)
    encoder = Encoder.create("lookupvit_test_patch8_48")
    model = build_model(encoder, vocab_size=len(tokenizer), width=32, layers=1, heads=2, max_length=16)
    for parameter in model.decoder.parameters():
        if parameter.ndim > 1:  # new weights are so small that a decoder hardly notices what it reads
            parameter.data *= 30
    return Captioner.from_model(model, tokenizer, name=name, trained_on=trained_on)


def photo(seed: int = 0) -> Image.Image:
    """Blocks of random colors, upright."""
    pixels = torch.randint(0, 256, (6, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.numpy()).resize((160, 240), Image.Resampling.NEAREST)
