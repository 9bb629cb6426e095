"""int8 captioners: close to the originals, only for CPUs, cannot be saved."""

import pytest
import torch
import torch.nn as nn

from tests.support import drawings
from vlcap import Captioner
from vlcap.captioner import CaptionerError
from vlcap.model.quantize import DECODER_ENGINES, ENCODER_ENGINES, Int8Linear


@pytest.mark.parametrize("engines", [DECODER_ENGINES, ENCODER_ENGINES])
@pytest.mark.parametrize("rows", [1, 4, 200])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_rounds_and_no_more(engines, rows, bias):
    """The error is that of two roundings to 8 bits: 5 % of a channel's typical output, however small the channel is."""
    torch.manual_seed(0)
    layer = nn.Linear(96, 160, bias=bias)
    layer.weight.data *= torch.logspace(-3, 1, 160)[:, None]  # each channel has a scale of its own
    x = torch.randn(2, rows, 96)
    with torch.no_grad():
        expected, ours = layer(x), Int8Linear(layer.weight, layer.bias, engines)(x)
    assert ours.shape == expected.shape
    typical = (layer.weight.norm(dim=1) * (2 * rows) ** 0.5).detach()
    assert ((ours - expected).norm(dim=(0, 1)) < 0.05 * typical).all()


@pytest.mark.slow
def test_bundled_captioner_stays_close(real_data):
    whole, small = Captioner.from_pretrained(), Captioner.from_pretrained(int8=True, engine="pytorch")
    pixels = whole.preprocess([drawings.draw(number) for number in range(8)])
    expected, tokens = whole.encode(pixels), small.encode(pixels)
    assert torch.cosine_similarity(tokens, expected, dim=-1).min() > 0.98
    assert not torch.equal(tokens, expected)
    ours = small.decode(expected, num_beams=1)
    assert sum(a == b for a, b in zip(ours, whole.decode(expected, num_beams=1), strict=True)) >= 5
    assert not [name for name, module in small.model.decoder.named_modules() if isinstance(module, nn.Linear)]


def test_not_to_be_saved_nor_for_a_gpu(captioner_folder, tmp_path):
    captioner = Captioner.from_pretrained(captioner_folder, int8=True)
    with pytest.raises(CaptionerError, match="can't be saved"):
        captioner.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    with pytest.raises(CaptionerError, match="cuda"):
        Captioner.from_pretrained(captioner_folder, device="cuda", int8=True)
