"""The text trainer: its sources, the sentences that it must not learn, and a captioner that starts from it."""

import gzip
import json
import math

import pytest
import torch

from tests.support import drawings
from train.captioner import CaptionerRecipe, Captioning, train_captioner
from train.decoder import DecoderRecipe, TextTask, read_texts, shift, train_decoder
from train.loop import TrainingError
from vlcap.captioner import Captioner, CaptionerError
from vlcap.data.captions import CaptionDataError, read_captions
from vlcap.model.encoder import Encoder
from vlcap.model.loading import load_decoder
from vlcap.model.tokenizer import EOS, PAD, START

pytestmark = pytest.mark.usefixtures("quick_curves")

SMALL = ["vocab_size=80", "width=32", "layers=1", "heads=2", "max_length=16", "group=8", "workers=0"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    own = (f"{text.rstrip(' .')} again" for text in drawings.captions(300))  # no caption of the drawn photos
    path.write_text("\n".join(own) + "\n\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(texts, captioned_folder, tmp_path_factory, quick_curves_in_module):
    out = tmp_path_factory.mktemp("run") / "text"
    recipe = DecoderRecipe.load(None, [*SMALL, "batch_size=4", "steps=40", "lr=1e-2", f"hold_out=[{captioned_folder}]"])
    return train_decoder(recipe, [str(texts)], out), out


def test_every_kind_of_source(texts, captioned_folder, tmp_path):
    lines = [line for line in texts.read_text().splitlines() if line]
    with gzip.open(tmp_path / "texts.txt.gz", "wt") as file:
        file.write(texts.read_text())
    coco = {"images": [{"id": 1}], "annotations": [{"id": 1, "image_id": 1, "caption": "a dog"}]}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    with gzip.open(tmp_path / "coco.json.gz", "wt") as file:
        json.dump(coco, file)
    assert read_texts(str(texts), "train") == read_texts(str(tmp_path / "texts.txt.gz"), "train") == lines
    assert read_texts(str(tmp_path / "coco.json"), "train") == read_texts(str(tmp_path / "coco.json.gz"), "train")
    photos = read_captions(captioned_folder, "train")
    assert read_texts(str(captioned_folder), "train") == [text for each in photos.captions for text in each]
    (tmp_path / "broken.json.gz").write_bytes(b"no archive")
    (tmp_path / "photo.jpg").write_bytes(b"")
    for name, said in (
        ("broken.json.gz", "cannot be read"),
        ("photo.jpg", "expected a folder"),
        ("no.txt", "cannot be read"),
    ):
        with pytest.raises(CaptionDataError, match=said):
            read_texts(str(tmp_path / name), "train")


def test_held_out_sentences_are_not_learned(captioned_folder, tmp_path):
    """Sentences are compared by their words: case and punctuation make no difference."""
    held_out = read_captions(captioned_folder, "val").captions[0][0]
    (tmp_path / "texts.txt").write_text(f"{held_out}\n{held_out.upper()} .\nrain\n")
    recipe = DecoderRecipe.load(None, [*SMALL, f"hold_out=[{captioned_folder}]"])
    task = TextTask(recipe, [str(tmp_path / "texts.txt")], tmp_path / "run")
    [[pieces]] = task.train_set.groups
    assert task.tokenizer.decode(pieces, skip_special_tokens=True) == "rain"
    with pytest.raises(TrainingError, match="--hold-out FOLDER names captioned photos"):
        TextTask(DecoderRecipe.load(None, SMALL), [str(tmp_path / "texts.txt")], tmp_path / "other")


def test_groups_are_of_like_length(texts, captioned_folder, tmp_path):
    recipe = DecoderRecipe.load(None, [*SMALL, f"hold_out=[{captioned_folder}]"])
    task = TextTask(recipe, [str(texts)], tmp_path / "run")
    lengths = [len(pieces) for group in task.train_set.groups for pieces in group]
    assert lengths == sorted(lengths) and max(lengths) < recipe.max_length


def test_what_is_read_is_one_behind_what_is_told():
    inputs, targets = shift([[5, 6, EOS], [7, EOS]])
    assert inputs.tolist() == [[START, 5, 6], [START, 7, PAD]]
    assert targets.tolist() == [[5, 6, EOS], [7, EOS, -100]]


@pytest.mark.slow
def test_it_learns_the_language(run):
    figures, folder = run
    decoder, tokenizer = load_decoder(folder / "decoder")
    assert figures["val_loss"] < math.log(len(tokenizer)) / 2  # half the loss of an untrained decoder
    assert decoder.config.n_embd == 32


@pytest.mark.slow
def test_a_captioner_starts_from_it(run, captioned_folder, tmp_path):
    _, folder = run
    Encoder.create("lookupvit_test_patch8_48").save_pretrained(tmp_path / "encoder")
    settings = [
        f"encoder={tmp_path / 'encoder'}",
        f"decoder={folder / 'decoder'}",
        "workers=0",
        "cider=false",
        "batch_size=16",
        "limit=32",
        "dropout=0.2",
    ]
    task = Captioning(CaptionerRecipe.load(None, settings), [str(captioned_folder)], tmp_path / "run")
    decoder, tokenizer = load_decoder(folder / "decoder")
    for name, weight in decoder.state_dict().items():
        assert torch.equal(task.model.decoder.state_dict()[name], weight), name
    assert len(task.tokenizer) == len(tokenizer) and task.model.decoder.config.resid_pdrop == 0.2
    train_captioner(CaptionerRecipe.load(None, [*settings, "steps=2"]), [str(captioned_folder)], tmp_path / "run")
    assert Captioner.from_pretrained(tmp_path / "run" / "captioner").caption([drawings.draw(0)])
    with pytest.raises(CaptionerError, match="no decoder can be loaded"):
        load_decoder(tmp_path / "encoder")


@pytest.mark.slow
def test_the_best_evaluation_is_kept(captioned_folder, tmp_path):
    """CIDEr of 3, 1, 2 and 4: the first weights stay until better ones come."""
    Encoder.create("lookupvit_test_patch8_48").save_pretrained(tmp_path / "encoder")
    settings = [f"encoder={tmp_path / 'encoder'}", "keep=best", "vocab_size=60", "width=32", "heads=2", "layers=1"]
    with pytest.raises(TrainingError, match="keep=best needs the CIDEr"):
        Captioning(CaptionerRecipe.load(None, [*settings, "cider=false"]), [str(captioned_folder)], tmp_path / "run")
    task = Captioning(CaptionerRecipe.load(None, [*settings, "limit=32"]), [str(captioned_folder)], tmp_path / "run")
    kept = []
    for cider in (3.0, 1.0, 2.0, 4.0):
        with torch.no_grad():
            task.model.decoder.transformer.wpe.weight.fill_(cider)
        task.save(task.model, tmp_path / "run")
        task._keep_best(task.model, cider)
        saved = Captioner.from_pretrained(tmp_path / "run" / "captioner")
        kept.append(saved.model.decoder.transformer.wpe.weight[0, 0].item())
    assert kept == [3.0, 3.0, 3.0, 4.0]
