"""Data loading processes that inherit nothing, as on macOS and Windows: they get what they need pickled, as by spawn.

A fork server has imported PyTorch once, where each process of spawn would import it anew. `make test-spawn` uses spawn.
"""

import multiprocessing
import os

import pytest
import torch

from tests.support import drawings
from tests.support.command import HEAVY
from train.cache import _reserve
from train.captioner import CaptionerRecipe, train_captioner
from train.checkpoint import load_checkpoint
from train.classifier import ClassifierRecipe, train_classifier
from vlcap.model.encoder import Encoder

CLASSIFIER = ["encoder=lookupvit_test_patch8_48", "batch_size=8", "limit=16", "steps=2", "mixup=0.2"]
CAPTIONER = ["batch_size=8", "limit=16", "steps=2", "vocab_size=60", "width=32", "heads=2", "layers=1", "cider=false"]


def train_both(out, class_folder, captioned_folder, workers):
    """Trains a classifier and a captioner, which reads from its cache: this must pickle neither encoder nor tokens."""
    train_classifier(
        ClassifierRecipe.load(None, [*CLASSIFIER, f"workers={workers}"]), [str(class_folder)], out / "classes"
    )
    torch.manual_seed(0)
    Encoder.create("lookupvit_test_patch8_48").save_pretrained(out / "encoder")
    settings = [*CAPTIONER, "cache_views=2", f"workers={workers}", f"encoder={out / 'encoder'}"]
    train_captioner(CaptionerRecipe.load(None, settings), [str(captioned_folder)], out / "tokens")


@pytest.fixture
def fork_server():
    """Data loading processes start from a fork server."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    multiprocessing.set_forkserver_preload(HEAVY)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trainers(fork_server, quick_curves, class_folder, captioned_folder, tmp_path):
    for workers in (0, 1):
        train_both(tmp_path / str(workers), class_folder, captioned_folder, workers)
    for name in ("classes", "tokens"):
        theirs, ours = (load_checkpoint(tmp_path / each / name / "checkpoints")["model"] for each in "01")
        assert all(torch.equal(weight, ours[key]) for key, weight in theirs.items()), name
        assert len(torch.cat([weight.flatten() for weight in ours.values()]).unique()) > 1


@pytest.mark.slow
def test_a_stream(fork_server, tmp_path):
    """Parquet read by two processes: the same places and batches as from forked ones."""
    from train.batches import Reading, StreamBatches
    from train.streaming import StreamedPhotos, read_stream

    for shard in range(2):
        drawings.write_parquet(tmp_path / f"train-{shard:05d}-of-00002.parquet", range(shard * 8, shard * 8 + 8))
    found = []
    for each in ("fork", "forkserver"):
        photos = StreamedPhotos(read_stream(str(tmp_path), "train"), mean_color, buffer=4)
        loader = StreamBatches(photos, stack, Reading(batch_size=4, workers=2)).loader(0, 4)
        loader.multiprocessing_context = each
        found.append([item for item in loader if item is not None])
    assert [place for _, place in found[0]] == [place for _, place in found[1]]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(*found, strict=True))


def mean_color(image):
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
