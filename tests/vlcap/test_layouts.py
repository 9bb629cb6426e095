"""The same 50 photos in every layout are the same set, with splits that are named, and with splits that are drawn."""

import json
import pickle
import re
import warnings
from pathlib import Path

import pytest

from tests.support import layouts
from tests.support.layouts import numbers, png, put, say
from vlcap.data.captions import CaptionDataError, CaptionSet, find_layouts, read_captions


def content(photos: CaptionSet) -> dict[int, tuple[list[str], bytes]]:
    return {
        image_id: (captions, photos.content(i))
        for i, (image_id, captions) in enumerate(zip(photos.image_ids, photos.captions, strict=True))
    }


@pytest.mark.parametrize("layout", layouts.LAYOUTS, ids=lambda layout: layout.__name__)
def test_the_same_photos_in_any_layout_are_the_same_set(tmp_path: Path, layout):
    folder = layout(tmp_path / "my [set] 2019")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(skipped|left out|drawn).*")
        for split in layouts.SPLITS:
            photos = read_captions(folder, split)
            expected = {n: (say(n), png(n)) for part, n in numbers() if part == split}
            assert content(photos) == expected
            assert photos.image_ids == list(expected)  # in order
            assert photos.image(0).size == (64, 48) and photos.dropped == 0
            assert re.fullmatch(r".*\d{4}\.png", photos.files[0])
            assert len(photos.fingerprint()) == len(photos.identity()) == 64
            sent = pickle.loads(pickle.dumps(photos))  # to a data loading process
            assert sent.image(1).tobytes() == photos.image(1).tobytes()
            assert content(read_captions(folder, split, limit=2)) == dict(list(expected.items())[:2])
    with pytest.raises(CaptionDataError, match="no split 'other', there is"):
        read_captions(folder, "other")
    assert len(read_captions(folder, "validation")) == 5


def unsplit(folder: Path, layout: str) -> Path:
    """All photos in a layout that says nothing about splits."""
    everything = list(numbers())
    if layout == "webdataset":
        folder.mkdir(parents=True)
        for shard in range(2):
            with layouts.tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
                for _, n in everything[shard::2]:
                    layouts.add(archive, f"{n:04d}.png", png(n))
                    layouts.add(archive, f"{n:04d}.txt", layouts.lines(say(n)).encode())
        return folder
    place = {"sidecars": "10_dogs", "metadata.jsonl": "", "captions.txt": "Images", "result.json": "images"}[layout]
    layouts.photos(folder, place)
    if layout == "sidecars":
        for _, n in everything:
            put(folder / place / f"{n:04d}.txt", layouts.lines(say(n)))
    elif layout == "metadata.jsonl":
        rows = [{"file_name": f"{n:04d}.png", "text": text} for _, n in everything for text in say(n)]
        put(folder / layout, layouts.lines(map(json.dumps, rows)))
    elif layout == "captions.txt":
        text = layouts.csv_rows(",", ["image", "caption"], lambda split, n, place, text: [f"{n:04d}.png", text])
        put(folder / layout, text)
    else:
        images = [{"id": n, "file_name": f"/x/{n:04d}.png"} for _, n in everything]
        annotations = [{"image_id": n, "caption": text} for _, n in everything for text in say(n)]
        put(folder / layout, json.dumps({"images": images, "annotations": annotations}))
    return folder


@pytest.mark.slow
def test_photos_are_drawn_by_their_content_if_nothing_names_a_split(tmp_path: Path):
    """The same photos are drawn from every layout, and a message says how many."""
    drawn = {}
    for layout in ("sidecars", "metadata.jsonl", "captions.txt", "result.json", "webdataset"):
        folder = unsplit(tmp_path / layout.replace(".", "_"), layout)
        with pytest.warns(UserWarning, match=r"photos are drawn by content: train \d+ \(90%\), val \d \(5%\), test \d"):
            sets = {split: content(read_captions(folder, split)) for split in ("train", "val", "test")}
        assert sum(map(len, sets.values())) == 50 and all(sets.values())
        everything = {n: found for each in sets.values() for n, found in each.items()}
        assert everything == {n: (say(n), png(n)) for _, n in numbers()}
        drawn[layout] = {split: set(found) for split, found in sets.items()}
    assert all(each == drawn["sidecars"] for each in drawn.values())


def test_a_photo_stays_in_its_split_when_others_are_added_or_renamed(tmp_path: Path):
    from vlcap.data.splits import share

    keys = [str(n).encode() for n in range(1000)]
    before, after = share(keys), share([*keys, *(f"new {n}".encode() for n in range(500))])
    assert after[:1000] == before
    assert 25 < before.count("val") < 80 and 25 < before.count("test") < 80
    assert share([]) == [] and share(keys[:1]) == ["train"] and sorted(share(keys[:2])) == ["train", "val"]
    assert sorted(share(keys[:3])) == ["test", "train", "val"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("cc3m-val-0003", "val"),
        ("my.test", "test"),
        ("validation-00000-of-00002", "validation"),
        ("val2017", "val2017"),
        ("train_2", "train"),
        ("TRAIN", "train"),
        ("training", "training"),
        ("trains", None),
        ("contest", None),
        ("train_and_val", None),
        ("00001", None),
    ],
)
def test_splits_in_names_of_files(name: str, split: str | None):
    from vlcap.data.splits import split_in_name

    assert split_in_name(name) == split


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train/1.jpg", "train"),
        ("images/val2017/more/1.jpg", "val2017"),
        ("test.jpg", None),
        ("/home/dev/photos/1.jpg", None),
        ("/home/ann/flickr/train/1.jpg", "train"),
        (r"C:\Users\dev\1.jpg", "dev"),
        (r"C:\Users\dev\photos\1.jpg", None),
        ("https://cdn.example.org/test/photos/1.jpg", None),
    ],
)
def test_splits_in_names_of_folders(path: str, split: str | None):
    from vlcap.data.splits import split_of_folder

    assert split_of_folder(path) == split


def test_photos_without_a_split_among_others_are_refused(tmp_path: Path):
    folder = layouts.sidecars(tmp_path)
    put(folder / "51.png", png(51))
    with pytest.raises(CaptionDataError, match=r"1 of 51 photos belong to no split, the first is 51\.png; .* test, tr"):
        read_captions(folder, "train")


def test_the_first_layout_is_read_and_the_others_are_known(tmp_path: Path):
    folder = layouts.sidecars(layouts.imagefolder(tmp_path))
    assert [layout.kind for layout in find_layouts(folder)] == ["imagefolder", "photo and .txt"]


def test_a_split_named_over_several_lines_stays_on_one_in_messages(tmp_path: Path):
    splits = ["", "a\nb", "val"]
    lines = [{"file_name": f"{i}.png", "caption": "a dog", "split": split} for i, split in enumerate(splits)]
    put(tmp_path / "captions.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    for i in range(3):
        put(tmp_path / f"{i}.png", png(i))
    with pytest.raises(CaptionDataError, match="belong to no split") as refused:
        read_captions(tmp_path, "val")
    assert "\n" not in str(refused.value)
