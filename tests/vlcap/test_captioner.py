"""The captioner: decoding, freezing, saving and loading."""

import json
import shutil
import threading

import pytest
import torch
from safetensors import safe_open
from transformers.modeling_outputs import BaseModelOutput

from tests.support import drawings
from vlcap import Captioner
from vlcap.captioner import CaptionerError
from vlcap.model.tokenizer import EOS, PAD, START


@pytest.fixture(scope="module")
def photos():
    return [drawings.draw(number) for number in range(6)]


def test_captions_differ_between_photos_and_keep_their_order(captioner, photos):
    texts = captioner.caption(photos, num_beams=1)
    assert len(set(texts)) > 1
    assert captioner.caption(photos[::-1], num_beams=1) == texts[::-1]
    assert [captioner.caption([photo], num_beams=1)[0] for photo in photos] == texts


@pytest.mark.parametrize("beams", [1, 3])
def test_from_tokens_as_from_pixels(captioner, photos, beams):
    """Beam search from computed tokens equals Hugging Face's from pixels: nothing is expanded twice or mixed up."""
    pixels = captioner.preprocess(photos)
    ids = captioner.model.generate(pixel_values=captioner.engine.normalize(pixels), num_beams=beams)
    expected = [text.strip() for text in captioner.tokenizer.batch_decode(ids, skip_special_tokens=True)]
    tokens = captioner.encode(pixels)
    assert captioner.decode(tokens, num_beams=beams) == expected
    assert captioner.decode(tokens, num_beams=beams) == expected  # the first call left the tokens as they were


def test_greedy_equals_a_loop_without_cache(captioner, photos):
    tokens = captioner.encode(captioner.preprocess(photos[:1]))
    ids = [START]
    with torch.inference_mode():
        for _ in range(captioner.model.generation_config.max_new_tokens):
            logits = captioner.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=tokens),
                decoder_input_ids=torch.tensor([ids]),
                use_cache=False,
            ).logits
            ids.append(int(logits[0, -1].argmax()))
            if ids[-1] == EOS:
                break
    text = captioner.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert captioner.decode(tokens, num_beams=1) == [text]


def test_budget_reaches_the_decoder(captioner, photos):
    pixels = captioner.preprocess(photos)
    assert captioner.encode(pixels, budget=2).shape[1] == 4
    assert captioner.encode(pixels, budget=3).shape[1] == 9
    assert captioner.encode(pixels).shape[1] == captioner.default_budget**2
    with pytest.raises(ValueError, match="6x6 lookup tokens"):
        captioner.caption(photos, budget=7)


def test_every_kind_of_source(captioner, photos, tmp_path):
    photos[0].save(tmp_path / "photo.png")
    data = (tmp_path / "photo.png").read_bytes()
    with open(tmp_path / "photo.png", "rb") as file:
        texts = captioner.caption([photos[0], tmp_path / "photo.png", str(tmp_path / "photo.png"), data, file])
    assert len(set(texts)) == 1


def test_saved_and_loaded_is_the_same(captioner, photos, tmp_path):
    captioner.save_pretrained(tmp_path / "copy")
    again = Captioner.from_pretrained(tmp_path / "copy")
    assert again.caption(photos) == captioner.caption(photos)
    for name, tensor in captioner.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    assert not [path for path in (tmp_path / "copy").iterdir() if path.suffix not in (".json", ".md", ".safetensors")]


def test_half_the_size_on_disk(captioner, photos, tmp_path):
    captioner.save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    captioner.save_pretrained(tmp_path / "full")
    half, full = (tmp_path / name / "model.safetensors" for name in ("half", "full"))
    assert half.stat().st_size < 0.6 * full.stat().st_size
    with safe_open(half, "pt") as short, safe_open(full, "pt") as long:
        assert set(short.keys()) == set(long.keys())  # the tied embedding is saved once
    again = Captioner.from_pretrained(tmp_path / "half")
    assert next(again.model.parameters()).dtype == torch.float32
    assert len(again.caption(photos)) == len(photos)


def test_frozen_survives_train(captioner):
    model = captioner.model
    model.train()
    assert model.decoder.training
    assert not any(module.training for module in model.encoder.modules())
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    model.eval()


def test_special_ids_have_one_source(captioner):
    assert (captioner.tokenizer.pad_token_id, captioner.tokenizer.eos_token_id) == (PAD, EOS)
    settings = captioner.model.generation_config
    assert (settings.decoder_start_token_id, settings.pad_token_id, settings.eos_token_id) == (START, PAD, EOS)
    assert (captioner.model.config.decoder_start_token_id, captioner.model.config.pad_token_id) == (START, PAD)


def test_not_a_captioner(tmp_path):
    with pytest.raises(CaptionerError, match="nowhere"):
        Captioner.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaptionerError, match="empty"):
        Captioner.from_pretrained(tmp_path / "empty")


def test_a_hub_id_may_name_a_revision(captioner_folder, monkeypatch):
    asked = []

    def snapshot_download(name, revision, allow_patterns):
        asked.append((name, revision))
        return str(captioner_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    for name in ("someone/captioner", "someone/captioner@v1"):
        assert Captioner.from_pretrained(name).folder == captioner_folder
    assert asked == [("someone/captioner", None), ("someone/captioner", "v1")]


def test_pickled_weights_are_refused(captioner, tmp_path):
    captioner.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(captioner.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CaptionerError):
        Captioner.from_pretrained(tmp_path)


def test_another_encoder_is_refused(captioner, tmp_path):
    captioner.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["encoder"] = {"model_type": "vit", "hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CaptionerError, match="not a vlcap captioner"):
        Captioner.from_pretrained(tmp_path)


def test_missing_weights_are_not_made_up(captioner, tmp_path):
    from safetensors.torch import load_file, save_file

    captioner.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("decoder.transformer.h.0.mlp.c_fc.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CaptionerError, match="c_fc"):
        Captioner.from_pretrained(tmp_path)


@pytest.mark.parametrize("generation", [{"num_beams": 1}, {"num_beams": 3}])
def test_stream_ends_with_the_caption(captioner, photos, generation):
    pixels = captioner.preprocess(photos[:1])
    [expected] = captioner.caption_pixels(pixels, budget=2, **generation)
    steps = list(captioner.stream(pixels, budget=2, **generation))
    assert (steps[-1].text, steps[-1].ids, steps[-1].budget) == (expected.text, expected.ids, 2)
    if generation["num_beams"] == 1:
        assert all(expected.ids[: len(step.ids)] == step.ids for step in steps)
    assert [step.ms for step in steps] == sorted(step.ms for step in steps)


def test_stream_stops_with_its_reader_and_reports_errors(captioner, photos):
    pixels = captioner.preprocess(photos[:1])
    threads = threading.active_count()
    steps = captioner.stream(pixels, num_beams=1)
    next(steps)
    steps.close()
    assert threading.active_count() == threads
    with pytest.raises(ValueError, match="budget"):
        list(captioner.stream(pixels, budget=99))
    assert threading.active_count() == threads


def test_ids_are_the_text(captioner, photos):
    for caption in captioner.caption_pixels(captioner.preprocess(photos)):
        assert captioner.text(caption.ids) == caption.text
        assert not {PAD, START, EOS} & set(caption.ids)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\ndatasets:\n- coco\n- flickr8k\n---\n# A captioner\n", "coco, flickr8k"),
        ("---\ndatasets: coco\n---\n", "coco"),
        ("# No head\n", ""),
        ("---\ndatasets: [coco\n---\n", ""),
        (None, ""),
    ],
)
def test_trained_on_is_the_cards(captioner_folder, tmp_path, card, expected):
    folder = shutil.copytree(captioner_folder, tmp_path / "captioner")
    if card is not None:
        (folder / "README.md").write_text(card)
    assert Captioner.from_pretrained(folder).trained_on == expected
