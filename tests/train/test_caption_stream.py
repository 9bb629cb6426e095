"""Captioned photos as a stream: the same photos and captions as read whole, every one seen, a resumed run is exact."""

import io
import json
import tarfile

import pytest
import torch

from tests.support import drawings, layouts
from tests.support.layouts import numbers, say
from train.batches import Reading, StreamBatches
from train.caption_stream import captions_of, read_caption_stream
from train.captioner import CaptionerRecipe, Captioning, train_captioner
from train.checkpoint import load_checkpoint
from train.loop import TrainingError
from train.streaming import StreamedPhotos
from vlcap.data import converting
from vlcap.data.captions import CaptionDataError, read_captions
from vlcap.data.survey import read_all
from vlcap.model.encoder import Encoder

pytestmark = pytest.mark.usefixtures("quick_curves")
TRAIN = [n for split, n in numbers() if split == "train"]


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch):
    """datasets waits 5 seconds for its reading threads at the end of each epoch."""
    import datasets

    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Four archives of training photos, one each of the other splits."""
    folder = tmp_path_factory.mktemp("shards")
    sets = read_all(layouts.sidecars(folder / "in"))
    whole, converting.PER_ARCHIVE = converting.PER_ARCHIVE, 10
    converting.convert(sets, "webdataset", folder / "out")
    converting.PER_ARCHIVE = whole
    return folder / "out"


class Told:
    """A stream whose examples are the names and captions, to see what a batch holds."""

    images = None

    def __init__(self, stream):
        self.dataset = stream.dataset

    def example(self, row, transform):
        return [int(row["__key__"].rpartition("/")[2]), captions_of(row)]


def read_steps(stream, start=0, stop=8, reached=None, workers=0):
    source = StreamBatches(StreamedPhotos(Told(stream), transform=len, buffer=7), list, Reading(5, workers=workers))
    source.places = reached or {}
    found = [item for item in source.loader(start, stop) if item is not None]
    return [batch for batch, _ in found], [place for _, place in found]


@pytest.mark.parametrize("kind", [layouts.webdataset, layouts.webdataset_json], ids=lambda kind: kind.__name__)
def test_a_stream_has_the_photos_and_captions_of_the_set(tmp_path, kind):
    folder = kind(tmp_path / "set")
    for path in folder.glob("set-*"):
        path.rename(path.with_name(path.name.removeprefix("set-")))
    stream = read_caption_stream(str(folder), "train")
    batches, _ = read_steps(stream)
    assert sorted(pair for batch in batches for pair in batch) == [[n, say(n)] for n in TRAIN]


@pytest.mark.parametrize(
    ("about", "text", "expected"),
    [
        ({"captions": [" a dog ", "a cat"]}, "a bird", ["a dog", "a cat"]),
        ({"captions": []}, "a bird\n\na cow", ["a bird", "a cow"]),
        ({"captions": [], "caption": "a horse"}, None, ["a horse"]),
        ({"caption": "a horse"}, "a bird", ["a bird"]),
        ({"caption": None, "text": "a sheep"}, None, ["a sheep"]),
    ],
)
def test_a_stream_and_a_set_find_the_same_captions(tmp_path, about, text, expected):
    sample = {"png": layouts.png(0), "json": json.dumps(about).encode()}
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for ending, content in (sample | ({} if text is None else {"txt": text.encode()})).items():
            member = tarfile.TarInfo(f"1.{ending}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert read_captions(tmp_path, "train").captions == [expected]
    assert [captions_of(row) for row in read_caption_stream(str(tmp_path), "train").dataset] == [expected]


def test_a_caption_that_is_no_text_is_one_line():
    with pytest.raises(CaptionDataError, match="0012: expected a text, got 5"):
        captions_of({"__key__": "0012", "json": {"captions": [5]}})


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_started_anywhere_it_goes_on_the_same(shards, workers):
    stream = read_caption_stream(str(shards), "train")
    whole, places = read_steps(stream, stop=12, workers=workers)
    first = [pair[0] for batch in whole[:8] for pair in batch]
    assert first != sorted(first) and (workers or sorted(first) == TRAIN)
    for start in (1, 7):
        reached = dict(places[:start])
        assert read_steps(stream, start, 12, reached, workers)[0] == whole[start:]


def test_the_order_of_an_epoch_is_the_readers_own(shards, monkeypatch):
    """datasets keeps the epoch in memory that all data loading processes share: another may set it in between."""
    stream = read_caption_stream(str(shards), "train")
    whole, _ = read_steps(stream, stop=12)
    set_epoch = type(stream.dataset).set_epoch
    monkeypatch.setattr(type(stream.dataset), "set_epoch", lambda self, epoch: set_epoch(self, epoch + 1))
    assert read_steps(stream, stop=12)[0] == whole
    assert whole[8:12] != whole[:4]


@pytest.mark.slow
def test_a_run_interrupted_and_resumed_is_the_same(shards, tmp_path, monkeypatch):
    Encoder.create("lookupvit_test_patch8_48").save_pretrained(tmp_path / "encoder")
    settings = ["stream=true", "steps=7", "batch_size=8", "workers=2", "save_every=2", "shuffle_buffer=10"]
    settings += ["vocab_size=80", "width=32", "heads=2", "layers=1", "max_length=16", "cider=false"]
    recipe = CaptionerRecipe.load(None, [f"encoder={tmp_path / 'encoder'}", *settings])
    train_captioner(recipe, [str(shards)], tmp_path / "whole")
    loss, calls = Captioning.loss, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 6:
            raise InterruptedError
        return loss(self, *arguments)

    monkeypatch.setattr(Captioning, "loss", interrupted)
    with pytest.raises(InterruptedError):
        train_captioner(recipe, [str(shards)], tmp_path / "halves")
    train_captioner(recipe, [str(shards)], tmp_path / "halves")
    assert len(calls) == 6 + 3  # resumed from step 4
    whole, halves = (load_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "halves"))
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, halves["model"][name]), name
    assert whole["places"] == halves["places"]
    [train, val] = json.loads((tmp_path / "whole" / "run.json").read_text())["data"]
    assert train["photos"] is None and val["photos"] == 5


def test_what_a_stream_of_captions_must_have(shards, tmp_path):
    with pytest.raises(CaptionDataError, match="no train split to stream"):
        read_caption_stream(str(tmp_path), "train")
    for extra, message in ((["cache_views=2"], "cannot be cached"), (["self_critical=5"], "captions of all photos")):
        recipe = CaptionerRecipe.load(None, ["encoder=x", "stream=true", "cider=false", *extra])
        with pytest.raises(TrainingError, match=message):
            Captioning(recipe, [str(shards)], tmp_path / "run")
    drawings.write_parquet(tmp_path / "train.parquet", range(4))
    stream = read_caption_stream(str(tmp_path), "train")
    assert list(stream.first_captions()) == [drawings.describe(n) for n in range(4)]


def test_a_split_is_read_without_the_archives_of_the_others(shards, tmp_path):
    for path in shards.glob("*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes() if "val" in path.name else b"damaged")
    assert len(read_captions(tmp_path, "val")) == 5
    with pytest.raises(CaptionDataError, match=r"cannot be read as an uncompressed tar file"):
        read_captions(tmp_path, "train")
