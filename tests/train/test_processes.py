"""Training and evaluation on two gloo processes give the same as on one: nothing twice, nothing lost.

They are forked, with the variables that torchrun sets. tests/app/test_keeping.py starts torchrun itself, as people do.
"""

import json

import pytest
import torch

from tests.support import drawings
from tests.support.command import vlcap_on_two
from train.captioner import CaptionerRecipe, train_captioner
from train.checkpoint import load_checkpoint
from train.classifier import ClassifierRecipe, train_classifier
from train.progress import read_evaluations
from vlcap.model.encoder import Encoder

pytestmark = pytest.mark.slow

TINY = ["workers=0", "batch_size=24", "budgets=[2,3]", "ema_decay=0.5"]


def assert_same_run(one, two):
    a, b = (load_checkpoint(folder / "checkpoints") for folder in (one, two))
    for kind in ("model", "ema"):
        for name, tensor in a[kind].items():
            torch.testing.assert_close(b[kind][name], tensor, rtol=1e-3, atol=1e-4)
    figures = [read_evaluations(folder / "log.jsonl") for folder in (one, two)]
    assert figures[0].keys() == figures[1].keys()
    for step, each in figures[0].items():
        for name, value in each.items():
            assert figures[1][step][name] == pytest.approx(value, rel=1e-3, abs=0.02), name
    logs = [[json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (one, two)]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]  # only one process writes
    assert logs[1][0]["loss"] == pytest.approx(logs[0][0]["loss"], rel=1e-4)


def test_classifier(class_folder, tmp_path):
    settings = [*TINY, "encoder=lookupvit_test_patch8_48", "steps=4"]
    train_classifier(ClassifierRecipe.load(None, settings), [str(class_folder)], tmp_path / "one")
    overrides = [part for setting in settings for part in ("--set", setting)]
    vlcap_on_two("train", "classifier", "--data", class_folder, "--out", tmp_path / "two", *overrides)
    assert_same_run(tmp_path / "one", tmp_path / "two")


def test_captioner(captioned_folder, tmp_path):
    """Captions differ in length, so the two halves of a batch have different weights."""
    torch.manual_seed(0)
    Encoder.create("lookupvit_test_patch8_48").save_pretrained(tmp_path / "encoder")
    settings = [
        *TINY,
        f"encoder={tmp_path / 'encoder'}",
        "steps=3",
        "vocab_size=60",
        "width=48",
        "heads=2",
        "layers=1",
        "dropout=0",
        "cache_views=1",
    ]
    train_captioner(CaptionerRecipe.load(None, settings), [str(captioned_folder)], tmp_path / "one")
    overrides = [part for setting in settings for part in ("--set", setting)]
    vlcap_on_two("train", "captioner", "--data", captioned_folder, "--out", tmp_path / "two", *overrides)
    assert_same_run(tmp_path / "one", tmp_path / "two")


def test_evaluation_of_203_photos(captioner_folder, captioner, tmp_path):
    from vlcap.data.captions import read_captions

    folder = drawings.write_coco_folder(tmp_path / "data", {"val2014": 203})
    ran = vlcap_on_two(
        "evaluate",
        "--data",
        folder,
        "--split",
        "val",
        "--model",
        captioner_folder,
        "--beams",
        1,
        "--out",
        tmp_path / "results",
        "--json",
    )
    assert json.loads(ran.stdout)["N"] == 203  # printed by one process only
    predictions = json.loads((tmp_path / "results" / "predictions.json").read_text())
    assert [each["image_id"] for each in predictions] == list(range(203))
    captions = read_captions(folder, "val")
    rows = (0, 101, 102, 202)  # first and last of both shares
    expected = captioner.caption([captions.image(i) for i in rows], num_beams=1)
    assert [predictions[i]["caption"] for i in rows] == expected
