"""Caption sets: every layout gives the same photos and captions, and errors name what is wrong in a folder."""

import io
import json
import os
import pickle
from pathlib import Path

import pytest
from PIL import Image

from vlcap.data.captions import (
    CaptionDataError,
    CaptionSet,
    read_captions,
    read_coco_captions,
    read_coco_results,
    write_coco_results,
)
from vlcap.data.images import ImageError

PHOTOS = {  # split -> image_id -> captions
    "train": {11: ["a red square", "something red"], 12: ["a green square"]},
    "val": {21: ["a blue square ", "blue"]},
    "test": {31: ["grey", "a grey square", "gray"]},
}
COLORS = {11: (255, 0, 0), 12: (0, 255, 0), 21: (0, 0, 255), 31: (128, 128, 128)}


def photo(image_id: int) -> bytes:
    file = io.BytesIO()
    Image.new(mode="RGB", size=(8, 8), color=COLORS.get(image_id, (9, 9, 9))).save(file, format="PNG")
    return file.getvalue()


def put(path: Path, content: bytes | str | dict | list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, (dict, list)):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def coco(captions: dict, name: str = "{}.png") -> dict:
    return {
        "images": [{"id": image_id, "file_name": name.format(image_id)} for image_id in captions],
        "annotations": [
            {"id": 10 * image_id + number, "image_id": image_id, "caption": caption}
            for image_id, texts in captions.items()
            for number, caption in enumerate(texts)
        ],
    }


def karpathy_photo(image_id: int, captions: list, split: str, **keys) -> dict:
    sentences = [{"raw": caption, "tokens": caption.split()} for caption in captions]
    return {"filename": f"{image_id}.png", "imgid": image_id, "split": split, "sentences": sentences, **keys}


def karpathy(folder: Path) -> Path:
    images = [karpathy_photo(12, PHOTOS["train"][12], "restval", filepath="val2014", cocoid="12")]
    for split, photos in PHOTOS.items():
        for image_id, captions in photos.items():
            place = "train2014" if split == "train" else "val2014"
            put(folder / ("val2014" if image_id == 12 else place) / f"{image_id}.png", photo(image_id))
            if image_id != 12:
                images.append(karpathy_photo(image_id, captions, split, filepath=place, cocoid=image_id) | {"imgid": 0})
    put(
        folder / "dataset_coco.json", {"images": sorted(images, key=lambda entry: entry["filename"]), "dataset": "coco"}
    )
    return folder


def karpathy_flickr(folder: Path, place: str = "images") -> Path:
    images = []
    for split, photos in PHOTOS.items():
        for image_id, captions in photos.items():
            put(folder / place / f"{image_id}.png", photo(image_id))
            images.append(karpathy_photo(image_id, captions, split))
    put(folder / "dataset_flickr8k.json", {"images": images, "dataset": "flickr8k"})
    return folder


def karpathy_beside(folder: Path) -> Path:
    return karpathy_flickr(folder, place="")


def coco_2014(folder: Path, photos: str = "{split}2014", file: str = "annotations/captions_{split}2014.json") -> Path:
    for split, captions in PHOTOS.items():
        for image_id in captions:
            put(folder / photos.format(split=split) / f"{image_id}.png", photo(image_id))
        put(folder / file.format(split=split), coco(captions))
    return folder


def coco_split_folders(folder: Path) -> Path:
    return coco_2014(folder, photos="{split}")


def coco_one_folder(folder: Path) -> Path:
    return coco_2014(folder, photos="images")


def coco_file(folder: Path) -> Path:
    return coco_2014(folder, photos="", file="captions_{split}.json")


def parquet_table(photos: dict, path: Path, **columns) -> Path:
    import pyarrow
    import pyarrow.parquet

    rows = {
        "image": [{"bytes": photo(image_id), "path": f"{image_id}.png"} for image_id in photos],
        "captions": list(photos.values()),
        "image_id": list(photos),
    } | columns
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({name: values for name, values in rows.items() if values is not None})
    pyarrow.parquet.write_table(table, where=path)
    return path


def parquet(folder: Path) -> Path:
    for split, captions in PHOTOS.items():
        parquet_table(captions, folder / f"{split}.parquet")
    put(folder / "dataset_info.json", {})  # Hugging Face's file, not Karpathy's
    return folder


def parquet_shards(folder: Path) -> Path:
    for split, captions in PHOTOS.items():
        for number, image_id in enumerate(captions):
            path = folder / "data" / f"{split}-{number:05}-of-{len(captions):05}.parquet"
            parquet_table({image_id: captions[image_id]}, path)
    return folder


LAYOUTS = [
    karpathy,
    karpathy_flickr,
    karpathy_beside,
    coco_2014,
    coco_split_folders,
    coco_one_folder,
    coco_file,
    parquet,
    parquet_shards,
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_gives_the_same_photos_and_captions(tmp_path: Path, layout):
    folder = layout(tmp_path / "set [1] of *")
    for split, expected in PHOTOS.items():
        photos = read_captions(folder, split)
        assert photos.references() == expected
        assert list(photos.references()) == photos.image_ids
        assert (photos.name, photos.split, len(photos), photos.dropped) == (folder.name, split, len(expected), 0)
        for i, image_id in enumerate(photos.image_ids):
            assert photos.image(i).getpixel((4, 4)) == COLORS[image_id]
            assert photos.files[i].endswith(f"{image_id}.png")
    with pytest.raises(CaptionDataError, match=r"no split 'other', there is .*train.*val"):
        read_captions(folder, "other")


@pytest.mark.parametrize("layout", [karpathy, coco_2014, parquet], ids=lambda layout: layout.__name__)
def test_limit_fingerprint_and_worker_processes(tmp_path: Path, layout):
    folder = layout(tmp_path)
    whole, first = read_captions(folder, "train"), read_captions(str(folder), "train", limit=1)
    assert first.references() == {11: PHOTOS["train"][11]}
    assert read_captions(folder, "train", limit=99).references() == PHOTOS["train"]
    assert len(whole.fingerprint()) == 64 and whole.fingerprint() != first.fingerprint()
    assert whole.fingerprint() == read_captions(folder, "train").fingerprint()
    copied = pickle.loads(pickle.dumps(whole))
    assert copied.image(1).tobytes() == whole.image(1).tobytes() and copied.fingerprint() == whole.fingerprint()
    with pytest.raises(CaptionDataError, match="limit must be at least 1"):
        read_captions(folder, "train", limit=0)


def test_the_fingerprint_follows_ids_captions_and_pixels(tmp_path: Path):
    folder = coco_2014(tmp_path)
    prints = {read_captions(folder, "train").fingerprint()}
    old = (folder / "train2014/11.png").stat()
    put(folder / "train2014/11.png", photo(12))
    os.utime(folder / "train2014/11.png", ns=(old.st_atime_ns, old.st_mtime_ns))
    prints.add(read_captions(folder, "train").fingerprint())
    put(
        folder / "annotations/captions_train2014.json",
        coco({11: ["a red square", "something"], 12: ["a green square"]}),
    )
    prints.add(read_captions(folder, "train").fingerprint())
    content = coco({13: ["a red square", "something"], 12: ["a green square"]})
    content["images"][0]["file_name"] = "11.png"
    put(folder / "annotations/captions_train2014.json", content)
    prints.add(read_captions(folder, "train").fingerprint())
    assert len(prints) == 4
    photos = read_captions(folder, "train")
    (folder / "train2014/12.png").unlink()
    with pytest.raises(ImageError, match=r"12\.png: cannot be read"):
        photos.fingerprint()


def test_a_damaged_photo_is_named(tmp_path: Path):
    folder = coco_2014(tmp_path)
    put(folder / "train2014/12.png", b"")
    with pytest.raises(ImageError, match=r"train2014.12\.png: the file is empty"):
        read_captions(folder, "train").image(1)
    parquet_table({11: ["red"]}, tmp_path / "flat/train.parquet", image=[{"bytes": b"no", "path": "a.jpg"}])
    with pytest.raises(ImageError, match=r"^a\.jpg in flat, train: not an image"):
        read_captions(tmp_path / "flat", "train").image(0)


def test_empty_captions_and_photos_without_any_are_left_out(tmp_path: Path):
    captions = {11: ["", "red", " \n"], 12: [" "], 21: []}
    expected = {11: ["red"]}
    put(tmp_path / "coco/captions_train.json", coco(captions))
    put(tmp_path / "karpathy/dataset.json", {"images": [karpathy_photo(i, c, "train") for i, c in captions.items()]})
    for name in ("coco", "karpathy"):
        put(tmp_path / name / "11.png", photo(11))  # a photo that is left out may be missing
    parquet_table(captions | {31: None}, tmp_path / "parquet/train.parquet")
    for name, dropped in {"coco": 2, "karpathy": 2, "parquet": 3}.items():
        with pytest.warns(UserWarning, match=f"train.*: photos without a caption, skipped: {dropped}"):
            photos = read_captions(tmp_path / name, "train")
        assert (photos.references(), photos.dropped) == (expected, dropped)
        assert photos.image(0).getpixel((0, 0)) == COLORS[11]
    assert read_coco_captions(tmp_path / "coco/captions_train.json") == expected
    path = put(tmp_path / "none/captions_train.json", coco({11: [""]}))
    for read in (lambda: read_captions(path.parent, "train"), lambda: read_coco_captions(path)):
        with pytest.raises(CaptionDataError, match=r"captions_train\.json: no captions"):
            read()


def test_two_years_of_coco(tmp_path: Path):
    coco_2014(tmp_path)
    coco_2014(tmp_path, photos="{split}2017", file="annotations/captions_{split}2017.json")
    with pytest.raises(CaptionDataError, match="more than one split 'val', say which val2014, val2017"):
        read_captions(tmp_path, "val")
    photos = read_captions(tmp_path, "val2017")
    assert (photos.files, photos.split) == (["val2017/21.png"], "val2017")


def test_photos_in_folders_that_the_file_names(tmp_path: Path):
    put(tmp_path / "captions_val.json", coco(PHOTOS["val"], name="deep/er/{}.png"))
    put(tmp_path / "images/deep/er/21.png", photo(21))
    assert read_captions(tmp_path, "val").files == ["images/deep/er/21.png"]
    (tmp_path / "images/deep/er/21.png").rename(tmp_path / "images/21.png")
    assert read_captions(tmp_path, "val").files == ["images/21.png"]


def test_parquet_with_other_columns(tmp_path: Path):
    plain = {1: "one", 2: "two"}
    parquet_table(plain, tmp_path / "train.parquet", captions=None, image_id=None, caption=list(plain.values()))
    assert read_captions(tmp_path, "train").references() == {0: ["one"], 1: ["two"]}
    images = [photo(11), photo(12)]
    parquet_table(plain, tmp_path / "val.parquet", image=images, captions=[["one"], ["two"]], image_id=["007", "8"])
    photos = read_captions(tmp_path, "val")
    assert (photos.image_ids, photos.files) == ([7, 8], ["row 0", "row 1"])
    assert photos.image(1).getpixel((0, 0)) == COLORS[12]


def test_parquet_that_will_not_do(tmp_path: Path):
    two = {11: ["red"], 12: ["green"]}
    parquet_table(two, tmp_path / "labels.parquet", captions=None)
    parquet_table(
        two, tmp_path / "paths.parquet", image=[{"bytes": photo(1), "path": "a"}, {"bytes": None, "path": "b"}]
    )
    parquet_table(two, tmp_path / "null.parquet", image=[{"bytes": photo(1), "path": "a"}, None])
    parquet_table(two, tmp_path / "numbers.parquet", captions=[[1], [2]])
    parquet_table(two, tmp_path / "odd.parquet", image_id=[1.5, 2.5])
    parquet_table(two, tmp_path / "twice.parquet", image_id=[3, 3])
    parquet_table(two, tmp_path / "pixels.parquet", image=[1, 2])
    put(tmp_path / "damaged.parquet", b"PAR1 and nothing else")
    for split, message in {
        "labels": "needs the columns image and captions",
        "paths": "rows without the bytes of their photo",
        "null": "rows without the bytes of their photo",
        "numbers": "row 0: expected a text, got 1",
        "odd": "row 0: an image id must be a whole number, got 1.5",
        "twice": "image_id 3 occurs 2 times",
        "pixels": "cannot be read as parquet",
        "damaged": "cannot be read as parquet",
    }.items():
        with pytest.raises(CaptionDataError, match=message) as caught:
            read_captions(tmp_path, split)
        assert f"{split}.parquet" in str(caught.value) and "\n" not in str(caught.value)


def test_folders_without_captions(tmp_path: Path):
    put(tmp_path / "photos/a.png", photo(1))
    with pytest.raises(CaptionDataError, match=r"Expected dataset_coco\.json, .*val\.parquet.* but there is a\.png$"):
        read_captions(tmp_path / "photos", "val")
    with pytest.raises(CaptionDataError, match="nowhere: no such folder"):
        read_captions(tmp_path / "nowhere", "val")
    put(tmp_path / "two/dataset_coco.json", {})
    put(tmp_path / "two/dataset_flickr8k.json", {})
    with pytest.raises(CaptionDataError, match=r"only one of dataset_coco\.json, dataset_flickr8k\.json"):
        read_captions(tmp_path / "two", "val")


@pytest.mark.parametrize("layout", [karpathy, coco_2014, coco_file], ids=lambda layout: layout.__name__)
def test_missing_photos_are_counted_and_the_first_is_named(tmp_path: Path, layout):
    folder = layout(tmp_path)
    files = read_captions(folder, "train").files
    (folder / files[1]).unlink()
    with pytest.raises(CaptionDataError, match=r"1 of the 2 photos are missing, the first is .*12\.png; looked in"):
        read_captions(folder, "train")
    assert len(read_captions(folder, "train", limit=1)) == 1
    (folder / files[0]).unlink()
    with pytest.raises(CaptionDataError, match=r"none of the 2 photos is here, the first is .*11\.png; looked in"):
        read_captions(folder, "train")


@pytest.mark.parametrize(
    "name", ["../{}.png", "/etc/{}.png", "a/../../{}.png", "..\\{}.png", "C:\\{}.png", "C:{}.png", "", "..", "\0{}.png"]
)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str):
    put(tmp_path / "21.png", photo(21))
    put(tmp_path / "coco/captions_val.json", coco(PHOTOS["val"], name=name))
    put(tmp_path / "karpathy/dataset_coco.json", {"images": [karpathy_photo(21, ["x"], "val") | {"filename": name}]})
    for folder in ("coco", "karpathy"):
        with pytest.raises(CaptionDataError, match="none of the 1 photos is here"):
            read_captions(tmp_path / folder, "val")
    entry = karpathy_photo(21, ["x"], "val", filepath="..")
    put(tmp_path / "karpathy/dataset_coco.json", {"images": [entry]})
    with pytest.raises(CaptionDataError, match="none of the 1 photos is here"):
        read_captions(tmp_path / "karpathy", "val")


@pytest.mark.parametrize(
    "name",
    [
        "images\\{}.png",
        "..\\x\\{}.png",
        "C:\\data\\{}.png",
        "D:{}.png",
        "../../x/{}.png",
        "/home/ann/photos/{}.png",
        "https://host/some%20where/{}.png?size=large&path=/x#top",
        "file:///data/{}.png",
        "./{}.png",
        "photos//{}.png",
    ],
)
def test_labeling_tools_paths_are_looked_for_by_their_last_part(tmp_path: Path, name: str):
    put(tmp_path / "21.png", photo(9))  # the file that the name leads to from the folder: it is never read
    put(tmp_path / "coco/captions_val.json", coco(PHOTOS["val"], name=name))
    put(tmp_path / "coco/images/21.png", photo(21))
    photos = read_captions(tmp_path / "coco", "val")
    assert photos.files == ["images/21.png"] and photos.image(0).getpixel((4, 4)) == COLORS[21]


def test_escapes_in_an_address_are_undone(tmp_path: Path):
    put(tmp_path / "captions_val.json", coco({21: ["x"]}, name="https://host/a%20b%C3%A9.png"))
    put(tmp_path / "images/a bé.png", photo(21))
    assert read_captions(tmp_path, "val").files == ["images/a bé.png"]


def test_folders_in_names_are_kept_where_they_are_there(tmp_path: Path):
    """cam1 and cam2 each have a photo of the same name, also with paths as Windows writes them."""
    content = coco({21: ["x"], 31: ["y"]})
    content["images"] = [{"id": 21, "file_name": "cam1\\0001.png"}, {"id": 31, "file_name": "cam2\\0001.png"}]
    put(tmp_path / "captions_val.json", content)
    for camera, image_id in (("cam1", 21), ("cam2", 31)):
        put(tmp_path / "images" / camera / "0001.png", photo(image_id))
    photos = read_captions(tmp_path, "val")
    assert [photos.image(i).getpixel((4, 4)) for i in (0, 1)] == [COLORS[21], COLORS[31]]


@pytest.mark.parametrize("limit", [None, 1])
def test_one_photo_never_serves_two_names(tmp_path: Path, limit):
    """Photos of two cameras have the same name, and only one is on disk. A limit does not make it unique either."""
    content = coco({21: ["x"], 31: ["y"], 11: ["z"]})
    for entry, name in zip(content["images"], ("cam1/0001.png", "cam2/0001.png", "cam2/0002.png"), strict=True):
        entry["file_name"] = name
    put(tmp_path / "coco/captions_val.json", content)
    put(tmp_path / "coco/images/0001.png", photo(21))
    put(tmp_path / "coco/images/0002.png", photo(11))
    with pytest.raises(
        CaptionDataError, match=r"first is cam1/0001\.png; .* can't be told apart without their folders"
    ):
        read_captions(tmp_path / "coco", "val", limit=limit)
    entries = [
        karpathy_photo(1, ["x"], "train", filepath="cam1") | {"filename": "0001.png"},
        karpathy_photo(2, ["y"], "val", filepath="cam2") | {"filename": "0001.png"},
    ]  # in another split
    put(tmp_path / "karpathy/dataset.json", {"images": entries})
    put(tmp_path / "karpathy/images/0001.png", photo(1))
    with pytest.raises(CaptionDataError, match="1 can't be told apart without their folders"):
        read_captions(tmp_path / "karpathy", "val", limit=limit)


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize(
    "names", [("0001.png",) * 2, ("0001.png", "./0001.png"), ("a\\1.png", "a/1.png"), ("b\u00e9.png", "be\u0301.png")]
)
def test_two_ids_of_one_photo_are_refused(tmp_path: Path, names, limit):
    content = coco({21: ["x"], 31: ["y"]})
    for entry, name in zip(content["images"], names, strict=True):
        entry["file_name"] = name
    put(tmp_path / "captions_val.json", content)
    put(tmp_path / "images" / names[0], photo(21))
    with pytest.raises(CaptionDataError, match=r"image_ids 21 and 31 are both the photo .*png: list it once"):
        read_captions(tmp_path, "val", limit=limit)


@pytest.mark.parametrize(("said", "there"), [("caf\u00e9", "cafe\u0301"), ("cafe\u0301", "caf\u00e9")])
def test_accents_are_the_same_however_they_are_composed(tmp_path: Path, said: str, there: str):
    """macOS separates letters and accents, labeling tools join them, also in names of folders."""
    put(tmp_path / "captions_val.json", coco({21: ["x"]}, name=f"{said}/{said}.png"))
    put(tmp_path / "images" / there / f"{there}.png", photo(21))
    photos = read_captions(tmp_path, "val")
    assert photos.files == [f"images/{there}/{there}.png"] and photos.image(0).getpixel((4, 4)) == COLORS[21]
    put(tmp_path / "images" / said / f"{said}.png", photo(31))  # both are there: the exact name wins
    photos = read_captions(tmp_path, "val")
    assert photos.files == [f"images/{said}/{said}.png"] and photos.image(0).getpixel((4, 4)) == COLORS[31]


@pytest.mark.parametrize("place", ["val_2017", "val2017", "val", "images"])
def test_a_year_after_an_underscore(tmp_path: Path, place: str):
    put(tmp_path / "annotations/captions_val_2017.json", coco(PHOTOS["val"]))
    put(tmp_path / place / "21.png", photo(21))
    for split in ("val", "val2017"):
        assert read_captions(tmp_path, split).files == [f"{place}/21.png"]


def test_a_parquet_split_keeps_its_underscore(tmp_path: Path):
    parquet_table(PHOTOS["val"], tmp_path / "val_small.parquet")
    assert len(read_captions(tmp_path, "val_small")) == 1


def test_what_lies_in_annotations_is_said(tmp_path: Path):
    put(tmp_path / "annotations/instances_val2017.json", {})
    put(tmp_path / "a.png", photo(1))
    with pytest.raises(CaptionDataError, match=r"but there is a\.png, annotations/ with instances_val2017\.json$"):
        read_captions(tmp_path, "val")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [\n{"id": 1,}]}', r"line 2, column \d+: not valid JSON"),
        ("", "line 1, column 1: not valid JSON"),
        (b"\xff\xfe\x00", "not a JSON text"),
        ("[" * 100_000, "not a JSON text"),
        ('{"images": [' + "9" * 5000 + "]}", "not a JSON text"),
        ([], "no list 'annotations'"),
        ({"annotations": {}}, "no list 'annotations'"),
        ({"annotations": [3]}, "annotations 0: expected an object"),
        ({"annotations": [{"image_id": 1, "caption": "a"}]}, "no list 'images'"),
        ({"annotations": [{"image_id": 1}]}, "annotations 0: no 'caption'"),
        ({"annotations": [{"image_id": 1, "caption": None}]}, "annotations 0: expected a text, got None"),
        ({"annotations": [{"image_id": ["a1"], "caption": "a"}]}, r"must be a whole number, got \['a1'\]"),
        (coco({1: ["a"]}) | {"annotations": [{"image_id": "a1", "caption": "a"}]}, "image_id 'a1' has captions but is"),
        ({"annotations": [{"image_id": True, "caption": "a"}]}, "must be a whole number, got True"),
        ({"annotations": [{"image_id": 1.0, "caption": "a"}]}, "must be a whole number, got 1.0"),
        ({"annotations": [{"image_id": "²", "caption": "a"}]}, "must be a whole number"),
        (coco({1: ["a"]}) | {"images": []}, "image_id 1 has captions but is not among"),
        (coco({1: ["a"]}) | {"images": [{"id": 1, "file_name": "1.png"}] * 3}, "image_id 1 occurs 3 times"),
        (coco({1: ["a"]}) | {"images": [{"id": 1}]}, "images 0: no 'file_name'"),
        ({"images": [], "annotations": []}, "no captions"),
    ],
)
def test_damaged_coco_files(tmp_path: Path, content, message: str):
    put(tmp_path / "captions_val.json", content)
    with pytest.raises(CaptionDataError, match=message) as caught:
        read_captions(tmp_path, "val")
    assert str(tmp_path / "captions_val.json") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"filename": 3}, "images 0: expected a text, got 3"),
        ({"sentences": [{}]}, "images 0: no 'raw'"),
        ({"sentences": None}, "images 0: "),
        ({"split": []}, "images 0: expected a text"),
        ({"cocoid": "x"}, "images 0: an image id must be"),
        ({"filepath": 3}, "images 0: expected a text, got 3"),
    ],
)
def test_damaged_karpathy_files(tmp_path: Path, entry: dict, message: str):
    put(tmp_path / "dataset_coco.json", {"images": [karpathy_photo(1, ["a"], "val") | entry]})
    with pytest.raises(CaptionDataError, match=message):
        read_captions(tmp_path, "val")


def test_coco_captions_keep_their_order_and_take_digits_for_ids(tmp_path: Path):
    annotations = [{"image_id": i, "caption": c} for i, c in [("7", "b"), (3, "x "), (7, "a"), ("007", "c")]]
    path = put(tmp_path / "references.json", {"annotations": annotations})
    assert list(read_coco_captions(path).items()) == [(7, ["b", "a", "c"]), (3, ["x "])]
    with pytest.raises(CaptionDataError, match=r"gone\.json: cannot be read"):
        read_coco_captions(tmp_path / "gone.json")
    with pytest.raises(CaptionDataError, match="cannot be read"):
        read_coco_captions(tmp_path)


def test_coco_results_go_there_and_back(tmp_path: Path):
    path = tmp_path / "new/predictions.json"
    predictions = {5: "a dog", 3: "", 4: 'ein Hündchen sagt "wau" \u2028 犬'}
    write_coco_results(path, predictions)
    assert list(read_coco_results(path).items()) == list(predictions.items())
    assert json.loads(path.read_text(encoding="utf-8"))[0] == {"image_id": 5, "caption": "a dog"}
    write_coco_results(str(path), {})
    assert read_coco_results(path) == {}
    assert os.listdir(path.parent) == [path.name]


def test_results_are_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = put(tmp_path / "predictions.json", [{"image_id": 1, "caption": "old"}])

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_coco_results(path, {2: "new"})
    assert read_coco_results(path) == {1: "old"} and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": []}, "a result file is a list of image_id and caption, not a dict"),
        ([{"image_id": 1, "caption": "a"}, {"image_id": "1", "caption": "b"}], "image_id 1 occurs twice"),
        ([{"image_id": 1, "caption": "a"}, {"caption": "b"}], "entry 1: no 'image_id'"),
        ([{"image_id": 1}], "entry 0: no 'caption'"),
        ([{"image_id": 1, "caption": ["a"]}], "entry 0: expected a text"),
        (["a"], "entry 0: expected an object with keys, got 'a'"),
        ("[", "line 1, column 2: not valid JSON"),
    ],
)
def test_damaged_results(tmp_path: Path, content, message: str):
    path = put(tmp_path / "results.json", content)
    with pytest.raises(CaptionDataError, match=message) as caught:
        read_coco_results(path)
    assert str(path) in str(caught.value)


def test_a_set_is_short_to_print(tmp_path: Path):
    assert repr(read_captions(coco_2014(tmp_path / "album"), "train")) == (
        "CaptionSet(name='album', split='train', dropped=0)"
    )


def real(real_data: Path | None, name: str) -> Path:
    if real_data is None:
        pytest.skip("real photos not present")
    return real_data / name


def check(photos: CaptionSet, images: int, captions: int | None = None):
    assert len(photos) == images and photos.dropped == 0
    assert captions is None or sum(map(len, photos.captions)) == captions
    assert len(set(photos.image_ids)) == len(photos.files) == images
    assert photos.image(0).size == photos.image(images - 1).size == (144, 144)


@pytest.mark.slow
def test_real_karpathy_split(real_data: Path | None):
    folder = real(real_data, "coco-6k-144")
    check(read_captions(folder, "train"), 4553, 21_772)
    check(read_captions(folder, "val"), 500, 2501)
    check(read_captions(folder, "test"), 1000, 5000)


@pytest.mark.slow
def test_real_coco_annotations(real_data: Path | None, tmp_path: Path):
    folder = real(real_data, "coco-6k-144")
    for name in ("annotations", "train2014", "val2014"):
        (tmp_path / name).symlink_to(folder / name, target_is_directory=True)
    references = {}
    for split in ("train", "val"):
        photos = read_captions(tmp_path, split)
        check(photos, len(os.listdir(folder / f"{split}2014")))
        references |= photos.references()
    for split in ("train", "val", "test"):
        karpathy_split = read_captions(folder, split)
        assert all(references[i] == captions for i, captions in karpathy_split.references().items())


@pytest.mark.slow
def test_real_parquet(real_data: Path | None):
    folder = real(real_data, "flickr8k-144")
    for split, images in {"train": 6000, "val": 1000, "test": 1000}.items():
        photos = read_captions(folder, split)
        check(photos, images, 5 * images)
        assert photos.references() == read_coco_captions(folder / f"captions_{split}.json")


def test_real_coco_files(real_data: Path | None):
    folder = real(real_data, "coco-annotations")
    references = read_coco_captions(folder / "captions_val2017.json")
    assert (len(references), sum(map(len, references.values()))) == (5000, 25_014)
    results = read_coco_results(folder / "captions_val2014_fakecap_results.json")
    assert len(results) == 1000 and len(results.keys() & references.keys()) == 126
