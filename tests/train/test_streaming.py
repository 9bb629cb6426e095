"""Training photos as a stream: shards are shared among processes, every photo is seen, a resumed run is exact."""

import functools
import io
import json
import shutil
import tarfile

import pytest
import torch

from tests.support import drawings
from train.batches import Reading, StreamBatches
from train.checkpoint import load_checkpoint
from train.classifier import Classification, ClassifierRecipe, train_classifier
from train.labels import LabelError
from train.streaming import StreamedPhotos, read_stream

pytestmark = pytest.mark.usefixtures("quick_curves")

PHOTOS, SHARDS = 48, 4


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch):
    """datasets waits 5 seconds for its reading threads at the end of each epoch."""
    import datasets

    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.0)


def png(number):
    file = io.BytesIO()
    drawings.draw(number).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def parquet_folder(tmp_path_factory):
    """Sharded parquet with class names in its features; the file name of photo n is its number."""
    import datasets

    folder = tmp_path_factory.mktemp("parquet")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(drawings.COLORS))})
    for split, count, shards in (("train", PHOTOS, SHARDS), ("val", 8, 1)):
        for shard in range(shards):
            numbers = range(shard, count, shards)
            datasets.Dataset.from_dict(
                {
                    "image": [{"bytes": png(n), "path": f"{n}.png"} for n in numbers],
                    "label": [n % 4 for n in numbers],
                },
                features=features,
            ).to_parquet(folder / f"{split}-{shard:05d}-of-{shards:05d}.parquet")
    return folder


@pytest.fixture(scope="module")
def webdataset_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("webdataset")
    for split, count, shards in (("train", PHOTOS, SHARDS), ("val", 8, 1)):
        for shard in range(shards):
            with tarfile.open(folder / f"{split}-{shard:04d}.tar", "w") as archive:
                for n in range(shard, count, shards):
                    for name, data in ((f"{n:04d}.png", png(n)), (f"{n:04d}.cls", str(n % 4).encode())):
                        entry = tarfile.TarInfo(name)
                        entry.size = len(data)
                        archive.addfile(entry, io.BytesIO(data))
    (folder / "classes.txt").write_text("\n".join(drawings.COLORS))
    return folder


def colors(image):
    """Mean color and corner color, which no two drawings share."""
    return image.resize((1, 1)).getpixel((0, 0)) + image.getpixel((0, 0))


@functools.cache
def numbers_by_color():
    return {colors(drawings.draw(n)): n for n in range(PHOTOS)}


def number_of(image):  # at the top of the file, as what processes are given has to be
    return torch.tensor(numbers_by_color()[colors(image)])


def as_pairs(items):
    return [(int(image), int(target)) for image, target in items]


def numbers(stream, start=0, stop=12, reached=None, rank=0, world=1, workers=0):
    """Numbers of the photos in the batches; the transform finds a photo's number by its colors."""
    photos = StreamedPhotos(stream, number_of, buffer=10)
    reading = Reading(batch_size=4, rank=rank, world=world, workers=workers)
    source = StreamBatches(photos, as_pairs, reading)
    source.places = reached or {}
    batches, places = [], []
    for item in source.loader(start, stop):
        if item is not None:
            batches.append(item[0])
            places.append(item[1])
    return batches, places


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_an_epoch_is_every_photo_once(kind, parquet_folder, webdataset_folder):
    folder = {"parquet": parquet_folder, "webdataset": webdataset_folder}[kind]
    stream = read_stream(str(folder), "train")
    assert stream.classes == list(drawings.COLORS)
    batches, _ = numbers(stream)
    seen = [number for batch in batches for number, _ in batch]
    assert sorted(seen) == list(range(PHOTOS))
    assert seen != sorted(seen)
    assert all(target == number % 4 for batch in batches for number, target in batch)
    second, _ = numbers(stream, stop=24)
    assert second[:12] == batches
    assert second[12:] != batches
    assert sorted(number for batch in second[12:] for number, _ in batch) == list(range(PHOTOS))


def test_a_folder_whose_name_looks_like_a_pattern(parquet_folder, tmp_path):
    folder = shutil.copytree(parquet_folder, tmp_path / "photos [1]")
    assert read_stream(str(folder), "train").classes == list(drawings.COLORS)


def test_processes_share_an_epoch(parquet_folder):
    stream = read_stream(str(parquet_folder), "train")
    halves = [numbers(stream, rank=rank, world=2, stop=12)[0] for rank in (0, 1)]
    assert all(len(batch) == 2 for half in halves for batch in half)
    seen = [{number for batch in half for number, _ in batch} for half in halves]
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == set(range(PHOTOS))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [1, 5, 13])
def test_started_anywhere_it_goes_on_the_same(parquet_folder, workers, start):
    stream = read_stream(str(parquet_folder), "train")
    whole, places = numbers(stream, workers=workers, stop=20)
    reached = dict(places[:start])
    assert numbers(stream, workers=workers, start=start, stop=20, reached=reached)[0] == whole[start:]


@pytest.mark.slow
def test_run_interrupted_and_resumed(webdataset_folder, tmp_path, monkeypatch):
    recipe = ClassifierRecipe.load(
        None,
        [
            "encoder=lookupvit_test_patch8_48",
            "stream=true",
            "steps=9",
            "batch_size=8",
            "workers=2",
            "save_every=2",
            "shuffle_buffer=10",
            "budgets=[2,3]",
        ],
    )
    train_classifier(recipe, [str(webdataset_folder)], tmp_path / "whole")
    loss, calls = Classification.loss, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 6:
            raise InterruptedError
        return loss(self, *arguments)

    monkeypatch.setattr(Classification, "loss", interrupted)
    with pytest.raises(InterruptedError):
        train_classifier(recipe, [str(webdataset_folder)], tmp_path / "halves")
    train_classifier(recipe, [str(webdataset_folder)], tmp_path / "halves")
    assert len(calls) == 6 + 5  # resumed from step 4
    whole, halves = (load_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "halves"))
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, halves["model"][name]), name
    assert whole["places"] == halves["places"]


def test_what_a_stream_must_say(parquet_folder, webdataset_folder, tmp_path):
    with pytest.raises(LabelError, match="no train split to stream"):
        read_stream(str(tmp_path), "train")
    for path in webdataset_folder.glob("*.tar"):
        (tmp_path / path.name).symlink_to(path)
    with pytest.raises(LabelError, match=r"classes\.txt in it, or set classes=N"):
        read_stream(str(tmp_path), "train")
    assert len(read_stream(str(tmp_path), "train", classes=7).classes) == 7
    with pytest.raises(LabelError, match=r"label [23] in a stream of 2 classes"):
        numbers(read_stream(str(tmp_path), "train", classes=2))
    with pytest.raises(LabelError, match="no/such-data-set is neither a folder here"):
        read_stream("no/such-data-set", "train")


def test_a_stream_has_no_epochs(parquet_folder, tmp_path):
    from train.loop import TrainingError

    recipe = ClassifierRecipe.load(None, ["encoder=lookupvit_test_patch8_48", "stream=true", "batch_size=8"])
    with pytest.raises(TrainingError, match="set steps"):
        train_classifier(recipe, [str(parquet_folder)], tmp_path)


def test_json_labels(tmp_path):
    """The form of the hub's ImageNet-21k archives."""
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for n in range(4):
            for name, data in ((f"{n}.png", png(n)), (f"{n}.json", json.dumps({"label": n, "other": "x"}).encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    stream = read_stream(str(tmp_path), "train", classes=4)
    assert [int(stream.item(row)[1]) for row in stream.dataset] == [0, 1, 2, 3]
