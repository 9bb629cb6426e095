"""Data loading processes with every start method: fork (Linux), spawn (macOS, Windows), forkserver (Python 3.14)."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.support import drawings
from train.cache import _reserve
from train.captioner import CaptionerRecipe, train_captioner
from train.checkpoint import load_checkpoint
from train.classifier import ClassifierRecipe, train_classifier
from vlcap.model.encoder import Encoder

CLASSIFIER = ["encoder=lookupvit_test_patch8_48", "batch_size=8", "limit=16", "steps=2", "mixup=0.2"]
CAPTIONER = ["batch_size=8", "limit=16", "steps=2", "vocab_size=60", "width=32", "heads=2", "layers=1", "cider=false"]
PROGRAM = """
import json, multiprocessing, sys
from pathlib import Path
method, encoder, classes, captioned, out = sys.argv[1:]
multiprocessing.set_start_method(method)
from train.captioner import CaptionerRecipe, train_captioner
from train.classifier import ClassifierRecipe, train_classifier
classifier, captioner = json.loads(sys.stdin.read())
for name, settings in classifier.items():
    train_classifier(ClassifierRecipe.load(None, [*settings, "workers=1"]), [classes], Path(out) / name)
for name, settings in captioner.items():
    recipe = CaptionerRecipe.load(None, [*settings, "workers=1", f"encoder={encoder}"])
    train_captioner(recipe, [captioned], Path(out) / name)
"""


@pytest.fixture(scope="module")
def runs():
    """Settings by name. The captioner reads from its cache, which must not pickle the encoder and the tokens."""
    return {"classes": CLASSIFIER}, {"tokens": [*CAPTIONER, "cache_views=2"]}


@pytest.fixture(scope="module")
def expected(runs, class_folder, captioned_folder, tmp_path_factory):
    """The result without data loading processes."""
    out = tmp_path_factory.mktemp("expected")
    torch.manual_seed(0)
    Encoder.create("lookupvit_test_patch8_48").save_pretrained(out / "encoder")
    classifier, captioner = runs
    for name, settings in classifier.items():
        train_classifier(ClassifierRecipe.load(None, [*settings, "workers=0"]), [str(class_folder)], out / name)
    for name, settings in captioner.items():
        recipe = CaptionerRecipe.load(None, [*settings, "workers=0", f"encoder={out / 'encoder'}"])
        train_captioner(recipe, [str(captioned_folder)], out / name)
    return out


@pytest.mark.slow
@pytest.mark.timeout(900)  # each process imports everything anew, which is slow on a busy machine
@pytest.mark.parametrize("method", ["spawn"])  # all other tests fork; forkserver asks no more of a trainer than spawn
def test_trainers(method, runs, expected, class_folder, captioned_folder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, method, expected / "encoder", class_folder, captioned_folder, tmp_path],
        input=json.dumps(runs),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # the same order of summation
    assert done.returncode == 0, done.stderr
    for name in (*runs[0], *runs[1]):
        theirs, ours = (load_checkpoint(folder / name / "checkpoints")["model"] for folder in (expected, tmp_path))
        assert all(torch.equal(weight, ours[key]) for key, weight in theirs.items()), name
        assert len(torch.cat([weight.flatten() for weight in ours.values()]).unique()) > 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_stream(method, tmp_path):
    """Parquet read by two processes: the same places and batches for every start method."""
    from train.batches import Reading, StreamBatches
    from train.streaming import StreamedPhotos, read_stream

    for shard in range(2):
        drawings.write_parquet(tmp_path / f"train-{shard:05d}-of-00002.parquet", range(shard * 8, shard * 8 + 8))
    found = []
    for each in ("fork", method):
        photos = StreamedPhotos(read_stream(str(tmp_path), "train"), mean_colour, buffer=4)
        loader = StreamBatches(photos, stack, Reading(batch_size=4, workers=2)).loader(0, 4)
        loader.multiprocessing_context = each
        found.append([item for item in loader if item is not None])
    assert [place for _, place in found[0]] == [place for _, place in found[1]]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(*found, strict=True))


def mean_colour(image):
    return torch.tensor(image.resize((1, 1)).getpixel((0, 0)))


def stack(items):
    return torch.stack([image for image, _ in items])


def test_a_systems_way_to_reserve_a_files_place(tmp_path, monkeypatch):
    """macOS and Windows have no posix_fallocate; the file's content stays."""
    monkeypatch.delattr(os, "posix_fallocate")
    path = tmp_path / "file"
    with open(path, "wb") as file:
        file.write(b"head")
        file.truncate(3_000_000)
    with open(path, "r+b") as file:
        _reserve(file, 3_000_000)
    assert path.read_bytes() == b"head" + bytes(2_999_996)
    assert path.stat().st_blocks * 512 >= 3_000_000
