"""Tables, text files, archives and labeling tools' JSON that are odd or damaged: read right, or refused by line."""

import json
import tarfile
from pathlib import Path

import pytest

from tests.support.layouts import add, png, put
from vlcap.data.captions import CaptionDataError, read_captions


def read(folder: Path, split: str = "train") -> dict[str, list[str]]:
    photos = read_captions(folder, split)
    return {Path(file).name: captions for file, captions in zip(photos.files, photos.captions, strict=True)}


def two(folder: Path, place: str = "train") -> Path:
    for name in ("1.png", "2.png"):
        put(folder / place / name, png(int(name[0])))
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('image,caption\n1.png,"a dog, asleep"\n2.png,a cat\n', {"1.png": ["a dog, asleep"], "2.png": ["a cat"]}),
        ("image,caption\n1.png,a dog, asleep\r\n\r\n2.png,b\n", {"1.png": ["a dog, asleep"], "2.png": ["b"]}),
        ('\ufeffFile Name;Caption\n"1.png";"two\nlines"\n', {"1.png": ["two\nlines"]}),
        ('image\tcaption\n1.png\t"I said ""hi"""\n2.png\t"Hi" I\n', {"1.png": ['I said "hi"'], "2.png": ['"Hi" I']}),
        ('image| n| comment\n1.png| 0| "unclosed\n2.png| 0| b\n', {"1.png": ['"unclosed'], "2.png": ["b"]}),
        ("image| n| comment\n1.png| 4   A dog runs .\n", {"1.png": ["A dog runs ."]}),
        ('filename,raw\n1.png,"[""a"", ""b""]"\n', {"1.png": ["a", "b"]}),
        ("image,caption1,caption_2\n1.png,a,b\n2.png,c,\n", {"1.png": ["a", "b"], "2.png": ["c"]}),
        ("image,caption\n1.png,a\n2.png,b\n1.png,c\n./1.png,d\n", {"1.png": ["a", "c", "d"], "2.png": ["b"]}),
        ("1.png#0\ta dog\r2.png#0\ta cat\r", {"1.png": ["a dog"], "2.png": ["a cat"]}),
        ("image,caption\n1.png,a\n2.png," + "b" * 200_000 + "\n", {"1.png": ["a"], "2.png": ["b" * 200_000]}),
        ("1.png#0\ta dog\n1.png#1\ta hound\n", {"1.png": ["a dog", "a hound"]}),
    ],
)  # fmt: skip
def test_tables_as_programs_write_them(tmp_path: Path, text: str, expected: dict):
    put(two(tmp_path) / "train" / ("token.txt" if "#0" in text else "captions.csv"), text)
    assert read(tmp_path) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("captions.csv", "image,caption,split\n1.png,a,train\n2.png,b\n", "line 3: 2 columns where the header has"),
        ("captions.csv", 'image,caption\n1.png,"a" b\n', r"captions.csv, line 2: not valid CSV"),
        ("captions.csv", 'image,caption\n1.png,"a\n', r"captions.csv, line 2: not valid CSV \(unexpected end of data"),
        ("captions.csv", "image,caption\n,a\n", "captions.csv, line 2: no name of a photo"),
        ("captions.csv", b"image,caption\n1.png,a\n2.png,caf\xe9\n", "captions.csv, line 3: not UTF-8"),
        ("captions.csv", "image,caption,image_id\n1.png,a,7\n1.png,b,8\n", "line 3: 1.png has the ids 7 and 8"),
        ("captions.csv", "image,caption,split\n1.png,a,val\n1.png,b,test\n", "line 3: 1.png is in the splits val and"),
        ("captions.csv", "image,caption,image_id\n1.png,a,7\n2.png,b,7\n", "image_id 7 is that of 1.png and 2"),
        ("captions.csv", "image,caption\n3.png,a\n", "none of the 1 photos is here, the first is 3.png"),
        ("captions.csv", "image,caption\n", "captions.csv: no captions in it"),
        ("captions.csv", "image,caption,split\n1.png,,val\n", "no captions, 1 photos"),
        ("token.txt", "1.png#0\ta\n1.png a\n", "token.txt, line 2: expected photo.jpg#0, a tab and a caption"),
        ("metadata.jsonl", '{"file_name": "1.png", "text": "a"}\n{"file_name":\n', "metadata.jsonl, line 2: not valid"),
        ("metadata.jsonl", '{"file_name": "1.png", "text": 3}\n', "metadata.jsonl, line 1: expected a text, got 3"),
        ("metadata.jsonl", '{"file_name": "1.png", "text": "a"}\n{"text": "a"}\n', "line 2: needs the keys file_name"),
        ("metadata.jsonl", '{"file_name": "1.png", "label": 3}\n', "line 1: needs the keys file_name and text"),
        ("metadata.jsonl", "[1]\n[2]\n", r"line 1: needs the keys .*there is \[1\] \(and 1 more problems"),
        ("1.txt", b"caf\xe9", "1.txt, line 1: not UTF-8"),
        ("result.json", '{"images": [], "annotations": [{"caption": 1}], "x": "file_name"}', "json: annotations 0"),
    ],
)  # fmt: skip
def test_damage_is_reported_by_file_and_line(tmp_path: Path, name: str, text, message: str):
    two(tmp_path, place="")
    put(tmp_path / name, text)
    with pytest.raises(CaptionDataError, match=message) as caught:
        read_captions(tmp_path, "val")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_two_tables_without_splits_are_not_mixed(tmp_path: Path):
    two(tmp_path)
    put(tmp_path / "a.csv", "image,caption\n1.png,a\n")
    put(tmp_path / "b.tsv", "image\tcaption\n1.png\ta\n")
    with pytest.raises(CaptionDataError, match=r"only one of a\.csv, b\.tsv can be read: name each by its split"):
        read_captions(tmp_path, "train")
    put(tmp_path / "c.csv", "name,price\nx,1\n")  # no table of captions
    (tmp_path / "b.tsv").rename(tmp_path / "val.tsv")
    (tmp_path / "a.csv").rename(tmp_path / "train.csv")
    with pytest.raises(CaptionDataError, match=r"val\.tsv, line 2: 1\.png is in the splits train and val"):
        read_captions(tmp_path, "train")


def test_photos_outside_of_flickr8ks_lists_are_counted(tmp_path: Path):
    two(tmp_path, place="Images")
    put(tmp_path / "Flickr8k.token.txt", "1.png#0\ta\n2.png#0\tb\n2.png.1#0\tc\n")
    put(tmp_path / "Flickr_8k.trainImages.txt", "1.png\n")
    put(tmp_path / "Flickr_8k.devImages.txt", "2.png\n")
    with pytest.warns(UserWarning, match=r"left out 1 photos that none of the files .*Images\.txt\) lists.* 2\.png\.1"):
        assert read(tmp_path) == {"1.png": ["a"]}
    put(tmp_path / "Flickr_8k.testImages.txt", "2.png\n")
    with pytest.raises(CaptionDataError, match=r"testImages\.txt: 2\.png is also in the list of dev"):
        read(tmp_path)


def test_text_files_without_a_photo_and_photos_without_one_are_counted(tmp_path: Path):
    two(tmp_path)
    put(tmp_path / "train/1.txt", "\ufeffa dog\r\n\r\n a hound \n")
    put(tmp_path / "train/1.caption", "another")
    put(tmp_path / "train/notes.txt", "mine")
    with pytest.warns(UserWarning) as caught:
        assert read(tmp_path) == {"1.png": ["a dog", "a hound"]}
    said = [str(each.message) for each in caught]
    assert any("text files without a photo, skipped: 1, the first is train/notes.txt" in each for each in said)
    assert any("second text files of a photo, skipped: 1, the first is train/1.caption" in each for each in said)
    assert any("photos without a caption, skipped: 1" in each for each in said)


def archive(path: Path, members: dict[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            add(file, name, content if isinstance(content, bytes) else content.encode())
    return path


def test_archives_as_programs_write_them(tmp_path: Path):
    members = {
        "a/0.JPG": png(1),
        "a/0.json": '{"caption": "from the json", "url": "x"}',
        "b/0.jpg": png(2),
        "b/0.txt": "from the text\n",
        "b/0.json": '{"caption": "unused", "text": null}',
        "1.json": '{"caption": "no photo"}',
        "._2.jpg": b"macOS's",
    }
    archive(tmp_path / "train-0.tar", members)
    with pytest.warns(UserWarning, match=r"samples without a photo, skipped: 1, the first is train-0\.tar/1"):
        photos = read_captions(tmp_path, "train")
    assert photos.captions == [["from the json"], ["from the text"]]
    assert [photos.content(i) for i in (0, 1)] == [png(1), png(2)]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.jpg": b"x", "1.png": b"x", "1.txt": "a"}, "train.tar, 1: several photos of one name: jpg, png"),
        ({"1.jpg": b"x", "1.json": "[]"}, r"train.tar, 1: the .json file must hold an object with keys, got \[\]"),
        ({"1.jpg": b"x", "1.json": "{"}, "train.tar, 1: Expecting property name"),
        ({"1.jpg": b"x", "1.json": '{"caption": 3}'}, "train.tar, 1: expected a text, got 3"),
        ({"1.jpg": b"x", "1.txt": b"\xff"}, "train.tar, 1: 'utf-8' codec"),
        ({"1.jpg": b"x", "1.txt": " \n"}, "no captions, 1 photos"),
        ({"1.jpg": b"x", "1.txt": b"a" * 2_000_000}, "train.tar, 1: a text of 2000000 bytes, the limit is"),
    ],
)
def test_damaged_archives(tmp_path: Path, members: dict, message: str):
    archive(tmp_path / "train.tar", members)
    with pytest.raises(CaptionDataError, match=message):
        read_captions(tmp_path, "train")


def test_archives_cut_short_or_compressed(tmp_path: Path):
    path = archive(tmp_path / "train.tar", {"1.txt": "a", "1.png": png(1)})
    data = path.read_bytes()
    path.write_bytes(data[:2000])
    with pytest.raises(CaptionDataError, match=r"train\.tar.*(cut short|unexpected end)"):
        read_captions(tmp_path, "train")
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(CaptionDataError, match=r"train\.tar: cannot be read as an uncompressed tar file"):
        read_captions(tmp_path, "train")


def test_ids_that_are_texts_become_numbers(tmp_path: Path):
    for name in ("x.png", "y.png", "z9.png"):
        put(tmp_path / "images" / name, png(1))
    content = {
        "images": [{"id": f"id-{name}", "file_name": name} for name in ("x.png", "z9.png", "y.png")],
        "annotations": [{"image_id": f"id-{name}", "caption": name} for name in ("y.png", "x.png", "z9.png")],
    }
    put(tmp_path / "captions_train.json", json.dumps(content))
    assert read_captions(tmp_path, "train").references() == {0: ["x.png"], 1: ["z9.png"], 2: ["y.png"]}
    content["images"][1]["id"] = "id-x.png"
    put(tmp_path / "captions_train.json", json.dumps(content))
    with pytest.raises(CaptionDataError, match=r"image_id 'id-z9\.png' has captions but is not among"):
        read_captions(tmp_path, "train")
    content["annotations"].pop()
    put(tmp_path / "captions_train.json", json.dumps(content))
    with pytest.raises(CaptionDataError, match="an id occurs twice among the file's images"):
        read_captions(tmp_path, "train")
