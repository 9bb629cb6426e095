"""Our decoding finds what Hugging Face's `generate` finds, for every setting that it supports.

Tested with random captioners over random tokens, whose beams are nearly equal, and with the bundled captioner over
photos. Run by `pytest tests/vlcap/test_decode.py`.
"""

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from encoders import EncoderError
from tests.support import drawings
from vlcap import Captioner
from vlcap.data.captions import read_captions
from vlcap.engines.pytorch import TorchEngine, fastest_dtype
from vlcap.errors import CaptionerError
from vlcap.model.build import build_model
from vlcap.model.encoder import Encoder
from vlcap.model.search import find_captions
from vlcap.model.tokenizer import EOS, PAD, START

SETTINGS = [
    {"num_beams": 1},
    {"num_beams": 1, "repetition_penalty": 1.8},
    {"num_beams": 1, "min_new_tokens": 5},
    {"num_beams": 2, "length_penalty": 0.0},
    {"num_beams": 3, "length_penalty": -1.0},
    {"num_beams": 3, "early_stopping": True},
    {"num_beams": 4},
    {"num_beams": 4, "min_new_tokens": 9, "length_penalty": 0.5},
    {"num_beams": 4, "early_stopping": "never", "length_penalty": 1.0},
    {"num_beams": 4, "early_stopping": True, "length_penalty": 2.0, "repetition_penalty": 1.3},
    {"num_beams": 5, "repetition_penalty": 0.7, "length_penalty": 0.5},
]


def random_model(seed: int, width: int):
    """A decoder whose captions have all lengths: the end is about as likely as any piece."""
    torch.manual_seed(seed)
    model = build_model(
        Encoder.create("lookupvit_test_patch8_48"), vocab_size=40, width=width, layers=2, heads=2, max_length=14
    ).eval()
    for name, weight in model.decoder.named_parameters():
        weight.data.mul_(20 if "crossattention" in name else 6)
    model.decoder.transformer.wte.weight.data[EOS] *= 1.6
    return model.double()  # in double precision no near tie is decided by rounding


def by_hugging_face(model, tokens, **settings):
    found = model.generate(encoder_outputs=BaseModelOutput(last_hidden_state=tokens.clone()), **settings).tolist()
    return [[piece for piece in ids if piece not in (PAD, START, EOS)] for ids in found]


def by_us(model, tokens, **settings):
    engine = TorchEngine(model, tokenizer=None)
    search = engine.search(**settings)
    assert search is not None
    found = find_captions(engine.start(tokens, search), search)
    return [[piece for piece in written.ids if piece not in (PAD, START, EOS)] for written in found]


@pytest.mark.parametrize(
    "settings", [*SETTINGS[:4], *(pytest.param(each, marks=pytest.mark.slow) for each in SETTINGS[4:])], ids=str
)
# Without and with a projection between the widths.
@pytest.mark.parametrize(("seed", "width"), [(0, 64), pytest.param(3, 32, marks=pytest.mark.slow)])
def test_as_hugging_face_does(settings, seed, width):
    model = random_model(seed, width)
    assert hasattr(model, "enc_to_dec_proj") == (width != 64)
    tokens = torch.randn(12, 9, 64, generator=torch.Generator().manual_seed(seed)).double()
    for length in (1, 2, 13):
        expected = by_hugging_face(model, tokens, max_new_tokens=length, **settings)
        assert by_us(model, tokens, max_new_tokens=length, **settings) == expected
    assert len({len(ids) for ids in expected}) > 1, "captions that all end together would test little"
    alone = [by_us(model, tokens[i : i + 1], max_new_tokens=13, **settings)[0] for i in range(len(tokens))]
    assert alone == expected


@pytest.fixture(scope="module")
def bundled():
    return Captioner.from_pretrained()


@pytest.fixture(scope="module")
def tokens_of_photos(bundled, real_data):
    """12 photos, encoded."""
    if real_data is None:
        return bundled.encode(bundled.preprocess([drawings.draw(number) for number in range(12)]))
    captions = read_captions(real_data / "flickr8k-144", "val", limit=12)
    return bundled.encode(bundled.preprocess([captions.image(i) for i in range(len(captions))]))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"num_beams": 1}, {"num_beams": 3, "length_penalty": 0.6}], ids=str)
def test_bundled_captioner_over_photos(bundled, tokens_of_photos, settings):
    captioner, tokens = bundled, tokens_of_photos
    assert captioner.decode_ids(tokens, **settings) == [
        tuple(ids) for ids in by_hugging_face(captioner.model, tokens, **settings)
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": True, "num_beams": 2},
        {"do_sample": True, "temperature": 0.0},
        {"do_sample": True, "min_p": 0.1},
        {"num_return_sequences": 2, "num_beams": 2},
        {"no_repeat_ngram_size": 2},
        {"min_length": 3},
        {"max_new_tokens": 10_000},
        {"num_beams": 30},
        {"eos_token_id": 5},
        {"repetition_penalty": 2},
        {"early_stopping": "sometimes", "num_beams": 2},
        {"do_sample": True, "top_p": -1.0},
        {"do_sample": True, "top_k": -1},
        {"max_new_tokens": 5.0},
    ],
)
def test_the_rest_is_left_to_hugging_face(settings):
    assert TorchEngine(random_model(0, 64), None).search(**{"max_new_tokens": 5, **settings}) is None


def test_several_captions_are_asked_for_by_their_count(captioner):
    """Hugging Face's own setting would give a list in which photos and captions no longer go together."""
    with pytest.raises(CaptionerError, match="num_return_sequences=2: for several captions of a photo, give count"):
        captioner.caption([drawings.draw(0)], num_beams=2, num_return_sequences=2)
    for budget in (0, False):
        with pytest.raises(EncoderError, match="does not fit"):
            captioner.caption([drawings.draw(0)], budget=budget)


def test_other_attention_is_left_to_hugging_face():
    model = random_model(0, 64)
    assert TorchEngine(model, None).search() is not None
    model.decoder.config.scale_attn_by_inverse_layer_idx = True
    assert TorchEngine(model, None).search() is None


def test_unknown_settings_reach_hugging_face(captioner):
    tokens = captioner.encode(captioner.preprocess([drawings.draw(0)]))
    assert captioner.decode_ids(tokens, num_beams=1, no_repeat_ngram_size=1) == [
        tuple(ids) for ids in by_hugging_face(captioner.model, tokens, num_beams=1, no_repeat_ngram_size=1)
    ]
    with pytest.raises(ValueError, match="nonsense"):
        captioner.decode(tokens, nonsense=3)


@pytest.mark.parametrize("beams", [1, 4])
def test_watching_sees_every_step_and_can_end_it(captioner, beams):
    tokens = captioner.encode(captioner.preprocess([drawings.draw(0)]))
    seen = []
    captioner.decode_ids(tokens, num_beams=beams, watch=lambda ids: seen.append(len(ids)) is not None)
    assert seen == list(range(2, 2 + len(seen)))
    assert len(seen) > 1
    captioner.decode_ids(tokens, num_beams=beams, watch=lambda ids: seen.append(0) is None)
    assert seen[-1] == 0 and seen.count(0) == 1


@pytest.mark.slow
def test_lower_precision_writes_captions_too(bundled):
    """bfloat16 rounds to three digits: near ties may change, most captions do not."""
    whole, short = bundled, Captioner.from_pretrained(dtype=torch.bfloat16)
    pixels = whole.preprocess([drawings.draw(number) for number in range(8)])
    expected = whole.decode_ids(whole.encode(pixels), num_beams=2)
    ours = short.decode_ids(short.encode(pixels), num_beams=2)
    assert short.model.dtype == torch.bfloat16
    assert sum(a == b for a, b in zip(ours, expected, strict=True)) >= 4


@pytest.mark.parametrize(
    ("able", "dtype"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_vnni": True, "avx512_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_the_fastest_numbers_of_a_cpu(monkeypatch, able, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert fastest_dtype("cpu") == dtype
