"""The classification trainer on videos: it learns what no single frame shows, and refuses what does not fit."""

import json
from pathlib import Path
from statistics import mean

import pytest
import torch
from PIL import Image

from app.commands.evaluate import evaluate
from app.commands.probe import probe
from tests.support import drawings
from tests.support.clips import MOTIONS, moved, write_captions, write_motions
from train.captioner import CaptionerRecipe, Captioning, train_captioner
from train.classifier import Classification, ClassifierRecipe, train_classifier
from train.labels import LabelError, read_labeled
from train.photos import transform_alike
from vlcap.captioner import Captioner
from vlcap.data.captions import read_captions
from vlcap.data.pixels import PixelConfig
from vlcap.errors import CaptionerError
from vlcap.evaluation.compare import compare, contender
from vlcap.evaluation.evaluate import predict
from vlcap.model.encoder import Encoder
from vlcap.probing.subject import ProbeError, load_subject
from vlcap.publishing.card import About, make_card
from vlcap.video import caption_videos, frames_of

CLIPS = ["encoder=lookupvivit_test_patch8x2_48", "workers=0", "hflip=0"]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Clips of six drawings."""
    return write_motions(tmp_path_factory.mktemp("few"), [drawings.draw(i, (96, 96)) for i in range(6)], val=2)


def test_frames_are_augmented_alike():
    transform = PixelConfig(size=32, mean=(0.5,) * 3, std=(0.5,) * 3).train_transform(color_jitter=0.4)
    image = drawings.draw(3, (96, 96))
    torch.manual_seed(0)
    first = transform_alike([image] * 4, transform)
    assert first.shape == (4, 3, 32, 32) and all(torch.equal(each, first[0]) for each in first)
    assert not torch.equal(transform_alike([image], transform)[0], first[0])  # the next clip is augmented anew


@pytest.mark.slow
def test_the_direction_of_a_pan_is_learned(real_data, tmp_path, quick_curves):
    """Of photos that are held out. No single frame shows it: left has the frames of right in the reverse order. A
    captioner that stands on this encoder says it, with either engine.
    """
    if real_data is None:
        photos = [drawings.draw(i, (144, 144)) for i in range(120)]
    else:
        captions = read_captions(real_data / "coco-6k-144", "train", limit=120)
        photos = [captions.image(i) for i in range(120)]
    directions = ("left", "right")
    data = write_motions(tmp_path / "data", photos, val=20, motions=directions)
    settings = [*CLIPS, "model_args={img_size: 32, tubelet: 4}", "scale=[0.8,1]", "batch_size=32", "lr=3e-3"]
    recipe = ClassifierRecipe.load(None, [*settings, "steps=60", "evaluate_every=100"])
    figures = train_classifier(recipe, [str(data)], tmp_path / "run")
    assert min(figures["top1@2"], figures["top1@3"]) > 0.9

    write_captions(data, [["over a photo", "slowly"]] * 120, val=20, motions=directions)
    settings = [f"encoder={tmp_path}/run/encoder", "cache_views=1", "budgets=[2,3]", "vocab_size=40", "cider=false"]
    small = ["width=48", "layers=2", "heads=2", "max_length=20", "batch_size=40", "lr=3e-3", "steps=80"]
    train_captioner(CaptionerRecipe.load(None, [*settings, *small]), [str(data)], tmp_path / "words")
    held_out = read_captions(data, "val")
    motions = [Path(file).parent.name for file in held_out.files]
    for engine in ("pytorch", "onnx"):
        captioner = Captioner.from_pretrained(tmp_path / "words" / "captioner", engine=engine, budget=3)
        texts = caption_videos(captioner, held_out.sources)
        assert texts == [caption.text for _, caption in predict(captioner, held_out)] and captioner.default_budget == 3
        assert mean(text.startswith(f"panning {each}") for text, each in zip(texts, motions, strict=True)) > 0.9


@pytest.mark.slow
def test_a_run_is_resumed_to_the_bit(few, tmp_path, quick_curves):
    settings = [*CLIPS, "batch_size=4", "evaluate_every=100", "save_every=2", "limit=12"]
    whole = ClassifierRecipe.load(None, [*settings, "steps=4"])
    figures = train_classifier(whole, [str(few)], tmp_path / "whole")
    assert {"top1@2", "top1@3"} <= figures.keys()
    begun = ClassifierRecipe.load(None, [*settings, "steps=2", "schedule=constant", "warmup=0"])
    onward = ClassifierRecipe.load(None, [*settings, "steps=4", "schedule=constant", "warmup=0"])
    train_classifier(begun, [str(few)], tmp_path / "parts")
    train_classifier(onward, [str(few)], tmp_path / "parts")
    train_classifier(onward, [str(few)], tmp_path / "once")
    parts, once = (Encoder.load(tmp_path / name / "encoder") for name in ("parts", "once"))
    assert all(torch.equal(weight, once.state_dict()[name]) for name, weight in parts.state_dict().items())
    assert parts.config.classes == sorted(MOTIONS) and parts.model.frames == 8
    trained = tmp_path / "whole" / "encoder"
    evaluate(data=str(few), classifier=str(trained), out=tmp_path / "figures")
    report = json.loads((tmp_path / "figures" / "metrics.json").read_text())
    assert report["N"] == 2 * len(MOTIONS) and report["top1@3"] == pytest.approx(figures["top1@3"])


def test_other_commands_with_encoders_of_clips(few, class_folder, tmp_path):
    """Probing is for encoders of photos, and a classifier of clips needs videos: one line says so."""
    encoder = Encoder.create("lookupvivit_test_patch8x2_48", classes=sorted(drawings.COLORS))
    encoder.save_pretrained(tmp_path / "encoder")
    given = str(tmp_path / "encoder")
    with pytest.raises(LabelError, match="reads clips of videos: --data must hold"):
        evaluate(data=str(class_folder), classifier=given)
    with pytest.raises(ProbeError, match="encoder: lookupvivit_test_patch8x2_48 reads clips of videos"):
        load_subject(given)
    with pytest.raises(LabelError, match="holds videos, and vlcap probe reads photos"):
        probe(data=str(few), out=tmp_path / "out")


def test_a_captioner_of_clips(few, tmp_path):
    """Photos are clips in which nothing moves; cached tokens are those of the pixels; what does not fit is refused."""
    write_captions(few, [["a drawing"]] * 6, val=2)
    Encoder.create("lookupvivit_test_patch8x2_48").save_pretrained(tmp_path / "encoder")
    settings = [f"encoder={tmp_path}/encoder", "vocab_size=30", "width=16", "layers=1", "heads=1", "cider=false"]

    def task(*more):
        return Captioning(CaptionerRecipe.load(None, [*settings, *more]), [str(few)], tmp_path / "run")

    plain, cached = task(), task("cache_views=1")
    for photos in (plain.val_set, cached.val_set):
        assert len(photos) == 2 * len(MOTIONS)
    batches = [each.collate([each.val_set[i] for i in range(4)]) for each in (plain, cached)]
    assert batches[0].photos.shape == (4, 8, 3, 48, 48)
    tokens = [each.tokens(batch, each.val_set, 3) for each, batch in zip((plain, cached), batches, strict=True)]
    assert tokens[0].shape == (4, 3 * 3 * 2, 64)
    torch.testing.assert_close(tokens[1], tokens[0], atol=2e-3, rtol=2e-3)  # half precision

    captioner = Captioner.from_model(plain.model, plain.tokenizer)
    photo = captioner.preprocess([drawings.draw(0)])
    still = captioner.encode(photo[:, None].repeat(8, axis=1), 2)
    assert torch.equal(captioner.encode(photo, 2), still) and captioner.facts.frames == frames_of(captioner) == 8
    card = make_card(captioner.facts, About("mine"))
    assert "about a video" in card and "for clips of 8 frames of 48 px" in card and "caption_videos(captioner" in card
    with pytest.raises(CaptionerError, match="captioner reads clips of 8 frames, not of 4"):
        caption_videos(captioner, [], frames=4)
    with pytest.raises(CaptionerError, match="reads clips of 8 frames, not of 3"):
        captioner.encode(photo[:, None].repeat(3, axis=1))
    with pytest.raises(CaptionerError, match="has videos, and costs here are those of a photo"):
        compare([contender("clips", captioner)], read_captions(few, "val"), tmp_path / "comparison")


def test_what_does_not_fit(few, class_folder, tmp_path):
    def refused(data, *settings):
        recipe = ClassifierRecipe.load(None, [*CLIPS, *settings])
        with pytest.raises(LabelError) as caught:
            Classification(recipe, [str(each) for each in data], tmp_path)
        return str(caught.value)

    assert "holds videos, and lookupvit_test_patch8_48 reads photos" in refused(
        [few], "encoder=lookupvit_test_patch8_48"
    )
    assert "reads clips of videos" in refused([class_folder])
    assert "clips are trained without mixup, cutmix: " in refused([few], "mixup=0.2", "cutmix=1")
    joined = tmp_path / "joined"
    for split in ("train", "val"):  # the same classes
        for motion in MOTIONS:
            (joined / split / motion).mkdir(parents=True)
            drawings.draw(0).save(joined / split / motion / "0.png")
    assert "one --data holds photos, another one videos" in refused([few, joined])


def test_videos_beside_photos_are_reported(few, tmp_path):
    folder = tmp_path / "train" / "in"
    folder.mkdir(parents=True)
    drawings.draw(0).save(folder / "0.png")
    (folder / "1.mp4").write_bytes(next((few / "train" / "in").iterdir()).read_bytes())
    with pytest.warns(UserWarning, match=r"skipped 1 file that is not an image .*1 \.mp4"):
        assert len(read_labeled(str(tmp_path), "train")) == 1


def test_reversed_motions_have_the_same_frames():
    photo: Image.Image = drawings.draw(1, (96, 96))
    for one, other in (("left", "right"), ("up", "down"), ("in", "out")):
        first, second = (moved(photo, motion, 4, 32) for motion in (one, other))
        assert [each.tobytes() for each in first] == [each.tobytes() for each in second[::-1]]
