"""Attention maps, against values computed by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.modeling_outputs import BaseModelOutput

from encoders import create_encoder
from tests.support import drawings
from vlcap.attention import draw_maps, group_pieces, look, overlay, seen
from vlcap.captioner import CaptionerError
from vlcap.data.images import PixelConfig
from vlcap.model.tokenizer import START, UNK

NORMAL = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.fixture(scope="module")
def pixels(captioner):
    return captioner.preprocess([drawings.draw(3)])


@pytest.fixture(scope="module")
def caption(captioner, pixels):
    [caption] = captioner.caption_pixels(pixels, budget=2, num_beams=3)
    return caption


def test_gather_attention_is_the_encoders(captioner, pixels):
    found = captioner.engine.attention(pixels, 2, [])
    assert found.grid == (6, 6) and found.gathered.shape == (
        2,
        4,
        36,
    )  # 48 pixels in patches of 8; 2 blocks
    encoder = captioner.model.encoder.model
    with torch.inference_mode():  # the first block, by the equations
        compressed, lookup = encoder.embed(captioner.engine.normalize(pixels), 2)
        block = encoder.blocks[0]
        q = block.gather.q_norm(block.gather.q(block.norm_compressed(compressed)))[0].reshape(4, 2, 32)
        k = block.gather.k_norm(block.gather.k(block.norm_lookup(lookup)))[0].reshape(36, 2, 32)
        by_head = [(q[:, head] @ k[:, head].T / 32**0.5).softmax(dim=-1) for head in range(2)]
    assert np.allclose(found.gathered[0], (by_head[0] + by_head[1]) / 2, atol=1e-6)


def test_word_attention_is_the_decoders(captioner, pixels, caption):
    """Row t is computed one step at a time, as in greedy decoding: later pieces must not matter."""
    tokens = captioner.encode(pixels, budget=2)
    read = captioner.engine.attention(pixels, 2, caption.ids).read
    captioner.model.decoder.set_attn_implementation("eager")
    expected = []
    with torch.inference_mode():
        for place in range(len(caption.ids)):
            weights = captioner.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=tokens),
                decoder_input_ids=torch.tensor([[START, *caption.ids[:place]]]),
                output_attentions=True,
            ).cross_attentions
            expected.append(sum(layer[0, :, -1].mean(dim=0) for layer in weights) / len(weights))
    captioner.model.decoder.set_attn_implementation("sdpa")
    assert np.allclose(read, torch.stack(expected), atol=1e-6)


def test_maps_are_carried_to_the_photos_grid(captioner, pixels, caption):
    found = look(captioner, pixels, caption.ids, budget=2)
    attention = captioner.engine.attention(pixels, 2, caption.ids)
    gathered = attention.gathered
    groups = group_pieces(captioner.engine.pieces(caption.ids))
    rows = np.stack([attention.read[places].mean(axis=0) for _, places in groups])
    assert " ".join(found.words) == caption.text
    assert found.blocks.shape == (2, 6, 6) and found.maps.shape == (len(found.words), 6, 6)
    assert np.allclose(found.blocks[1].ravel(), gathered[1].mean(axis=0))
    by_hand = sum(rows[0, token] * (gathered[0, token] + gathered[1, token]) / 2 for token in range(4))
    assert np.allclose(found.maps[0].ravel(), by_hand, atol=1e-6)
    assert np.allclose(found.blocks.sum(axis=(1, 2)), 1, atol=1e-5)
    assert np.allclose(found.maps.sum(axis=(1, 2)), 1, atol=1e-5)


def test_looking_leaves_the_decoder_as_it_was(captioner, pixels, caption):
    before = captioner.model.decoder.config._attn_implementation
    look(captioner, pixels, caption.ids, budget=2)
    assert captioner.model.decoder.config._attn_implementation == before
    assert [caption.text] == [again.text for again in captioner.caption_pixels(pixels, budget=2, num_beams=3)]


def test_unknown_pieces_are_left_out_of_words(captioner, pixels):
    name, known = next((n, i) for n, i in captioner.tokenizer.get_vocab().items() if n.startswith("▁") and len(n) > 1)
    found = look(captioner, pixels, [known, UNK, known], budget=2)
    assert found.words == [name[1:], name[1:]] and found.maps.shape == (2, 6, 6)


def test_an_empty_caption_has_no_words(captioner, pixels):
    found = look(captioner, pixels, (), budget=2)
    assert found.words == [] and found.maps.shape == (0, 6, 6)


def test_an_encoder_that_does_not_gather(captioner, pixels, monkeypatch):
    plain = create_encoder("vit_mini_patch8_96", num_classes=0)
    monkeypatch.setitem(captioner.model.encoder._modules, "model", plain)
    with pytest.raises(CaptionerError, match="does not gather"):
        captioner.engine.attention(pixels, 2, [])


def test_words_are_joined_by_their_marks():
    pieces = ["▁a", "▁sk", "ate", "board", "er", "▁", "'", "s", "▁hat", ","]
    assert group_pieces(pieces) == [("a", [0]), ("skateboarder", [1, 2, 3, 4]), ("'s", [5, 6, 7]), ("hat,", [8, 9])]
    assert group_pieces(["ing", "▁"]) == [("ing", [0])]
    assert group_pieces([]) == []


@pytest.mark.parametrize("mode", ["squash", "center", "border"])
@pytest.mark.parametrize("part", [1.0, 0.75])
def test_seen_is_what_the_encoder_sees(mode, part):
    ramp = np.linspace(0, 255, 400, dtype=np.uint8)
    photo = Image.fromarray(np.stack(np.broadcast_arrays(ramp[None], ramp[:300, None], 90), axis=-1).astype(np.uint8))
    config = PixelConfig(size=48, crop_pct=part, crop_mode=mode, **NORMAL)
    expected = config.eval_transform()(photo).permute(1, 2, 0).numpy().astype(int)
    shown = seen(photo, config)
    assert (shown.width == shown.height) == (mode != "squash")
    difference = np.asarray(shown.resize((48, 48), Image.Resampling.BICUBIC)).astype(int) - expected
    assert np.abs(difference).mean() < 2


def test_overlay_is_bright_where_attention_is():
    attention = np.zeros((6, 6), dtype=np.float32)
    attention[1, 4] = 1
    shown = np.asarray(overlay(Image.new("RGB", (120, 60), "grey"), attention)).astype(int).sum(axis=-1)
    assert shown.shape == (60, 120)
    row, column = np.unravel_index(shown.argmax(), shown.shape)
    assert (row // 10, column // 20) == (1, 4)
    assert shown.max() > 2 * shown.min()


def test_overlay_of_even_attention_is_even():
    even = np.asarray(overlay(Image.new("RGB", (50, 50), "grey"), np.full((6, 6), 1 / 36))).astype(int)
    nearly = np.asarray(overlay(Image.new("RGB", (50, 50), "grey"), np.full((6, 6), 1 / 36) + np.eye(6) * 1e-4))
    assert np.ptp(even) == np.ptp(even[0, 0])
    assert np.abs(nearly.astype(int) - even).max() < 10


@pytest.mark.parametrize(("each_token", "rows"), [(False, 2), (True, 4 + 9)])
def test_maps_are_drawn_block_by_block(captioner, each_token, rows):
    photo = drawings.draw(3)
    figure = draw_maps(captioner, photo, budgets=[2, 3], each_token=each_token)
    places = np.array(figure.axes).reshape(rows, 3)  # the photo, two blocks
    assert [place.get_title() for place in places[0]] == ["", "block 1", "block 2"]
    found = captioner.engine.attention(captioner.preprocess([photo]), 3, [])
    shown = seen(photo, captioner.pixels)
    wanted = found.gathered[1, 8] if each_token else found.gathered[1].mean(axis=0)
    expected = overlay(shown, wanted.reshape(found.grid))
    assert np.array_equal(places[-1, 2].images[0].get_array(), np.asarray(expected))
    assert np.array_equal(places[-1, 0].images[0].get_array(), np.asarray(shown))


def test_an_encoder_without_lookup_tokens_has_no_maps(captioner, monkeypatch):
    bare = create_encoder("lookupvit_test_patch8_48", num_classes=0, lookup_tokens=False)
    monkeypatch.setitem(captioner.model.encoder._modules, "model", bare)
    with pytest.raises(CaptionerError, match="does not gather"):
        draw_maps(captioner, drawings.draw(3))


@pytest.mark.slow
def test_the_command_writes_a_picture(captioner_folder, tmp_path):
    from tests.support.command import vlcap

    drawings.draw(3).save(tmp_path / "photo.png")
    done = vlcap(
        "attention",
        tmp_path / "photo.png",
        "-o",
        tmp_path / "maps.png",
        "--model",
        captioner_folder,
        "--budget",
        2,
        "--budget",
        3,
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "maps.png") as picture:
        assert picture.width > picture.height > 300
