"""A new encoder in ten lines, as in the docstring of encoders/interface.py: no other file knows of it."""

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer

from encoders import create_encoder
from encoders.preprocessing import augreg_cfg
from encoders.registry import describe_encoders
from tests.support import drawings
from vlcap.captioner import Captioner
from vlcap.model.build import build_model
from vlcap.model.encoder import Encoder
from vlcap.model.tokenizer import train_tokenizer

default_cfgs = generate_default_cfgs({"shallow_vit_48": augreg_cfg(input_size=(3, 48, 48), classifier="head")})


@register_model
def shallow_vit_48(pretrained=False, **kwargs):
    arguments = {"img_size": 48, "patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 2, **kwargs}
    return build_model_with_cfg(VisionTransformer, "shallow_vit_48", pretrained, **arguments)


def test_it_gives_tokens():
    assert create_encoder("shallow_vit_48").forward_tokens(torch.zeros(2, 3, 48, 48)).shape == (2, 37, 64)


def test_it_is_described():
    [row] = describe_encoders("shallow_vit_48")
    assert (row["name"], row["image_size"], row["budgets"]) == ("shallow_vit_48", 48, [6])
    assert row["params"] > 50_000 and row["gflops"][6] > 0


def test_it_captions(tmp_path):
    tokenizer = train_tokenizer(drawings.captions(60), vocab_size=60)
    encoder = Encoder.create("shallow_vit_48")
    model = build_model(encoder, vocab_size=len(tokenizer), width=32, layers=1, heads=2, max_length=12)
    captioner = Captioner.from_model(model, tokenizer)
    captioner.save_pretrained(tmp_path / "captioner")
    again = Captioner.from_pretrained(tmp_path / "captioner")
    photos = [drawings.draw(number) for number in range(3)]
    assert again.caption(photos) == captioner.caption(photos)
    assert again.encode(again.preprocess(photos)).shape == (3, 37, 64)
