"""`vlcap data`: what it prints of a folder, and any layout written as any other."""

import json
import os
from pathlib import Path

import pytest

from tests.support import layouts
from tests.support.command import vlcap
from tests.support.layouts import numbers, png, put, say
from vlcap.data.captions import CaptionDataError, CaptionSet, read_captions
from vlcap.data.converting import WRITERS, convert
from vlcap.data.survey import read_all, survey
from vlcap.files.writing import NEW, NotOursError


def content(photos: CaptionSet) -> dict[int, tuple[list[str], bytes]]:
    return {n: (photos.captions[i], photos.content(i)) for i, n in enumerate(photos.image_ids)}


@pytest.mark.slow
@pytest.mark.parametrize("to", WRITERS)
@pytest.mark.parametrize(
    "source", [layouts.karpathy, layouts.parquet, layouts.webdataset], ids=lambda each: each.__name__
)
def test_any_layout_is_written_as_any_other(tmp_path: Path, source, to: str):
    folder = source(tmp_path / "in")
    assert convert(read_all(folder), to, tmp_path / "out") == []
    assert not list(tmp_path.glob(f".*{NEW}"))
    for split in layouts.SPLITS:
        photos = read_captions(tmp_path / "out", split)
        assert content(photos) == {n: (say(n), png(n)) for part, n in numbers() if part == split}
    found = survey(tmp_path / "out", check_photos=True)
    assert not found.problems and not found.remarks
    assert {each.split: (each.photos, each.captions) for each in found.splits} == {
        split: (count, 3 * count) for split, count in layouts.SPLITS.items()
    }


@pytest.mark.slow
def test_hugging_face_reads_what_is_written(tmp_path: Path):
    import datasets

    sets = read_all(layouts.sidecars(tmp_path / "in"))
    for to in ("imagefolder", "webdataset", "parquet"):
        convert(sets, to, tmp_path / to)
    rows = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "imagefolder"), split="validation")
    assert [row["captions"] for row in rows] == [say(n) for split, n in numbers() if split == "val"]
    assert rows[0]["image"].size == (64, 48)
    files = str(tmp_path / "webdataset/val-00000.tar")
    rows = datasets.load_dataset("webdataset", data_files={"train": files}, split="train")
    assert rows[0]["txt"] == say(41)[0] and rows[0]["json"]["captions"] == say(41) and rows[0]["png"].size == (64, 48)
    rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "parquet/val.parquet"), split="train")
    assert rows[0]["captions"] == say(41) and rows[0]["image"].size == (64, 48)


def test_names_that_a_layout_cannot_tell_apart_are_changed(tmp_path: Path):
    """Photos of two cameras, of the same stem, with dots, with accents, of another case."""
    names = ["cam1/a.png", "cam2/a.png", "a.jpg", "A.png", "b.c.png", "be\u0301.png", ".hidden.png"]
    rows = [{"file_name": name, "text": f"photo {n}", "image_id": n} for n, name in enumerate(names, start=1)]
    for n, name in enumerate(names, start=1):
        put(tmp_path / "in/train" / name, png(n))
    put(tmp_path / "in/train/metadata.jsonl", layouts.lines(map(json.dumps, rows)))
    sets = read_all(tmp_path / "in")
    for to in WRITERS:
        lost = convert(sets, to, tmp_path / to)
        assert lost == (["this layout keeps no ids: those of train will be others"] if to == "kohya" else [])
        found = read_captions(tmp_path / to, "train")
        assert {text: found.content(i) for i, [text] in enumerate(found.captions)} == {
            f"photo {n}": png(n) for n in range(1, 8)
        }
    assert read_captions(tmp_path / "csv", "train").references() == {n: [f"photo {n}"] for n in range(1, 8)}


@pytest.mark.slow
@pytest.mark.parametrize("to", WRITERS)
def test_a_caption_that_looks_like_a_list_stays_one(tmp_path: Path, to: str):
    put(tmp_path / "in/train/1.png", png(1))
    put(tmp_path / "in/train/1.txt", '["a dog"]\n')
    convert(read_all(tmp_path / "in"), to, tmp_path / "out")
    assert read_captions(tmp_path / "out", "train").captions == [['["a dog"]']]


def test_a_split_whose_name_is_too_long_for_a_file_is_refused(tmp_path: Path):
    put(tmp_path / "in/1.png", png(1))
    put(tmp_path / "in/metadata.csv", f"file_name,caption,split\n1.png,a dog,{'x' * 300}\n")
    with pytest.raises(CaptionDataError, match=r"the name of the split x{200} has more than 100 bytes"):
        convert(read_all(tmp_path / "in"), "parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_replaced_and_nothing_half_written_is_left(tmp_path: Path):
    sets = read_all(layouts.sidecars(tmp_path / "in"))
    put(tmp_path / "mine/notes.txt", "mine")
    with pytest.raises(NotOursError, match=r"mine is not empty \(it holds 'notes.txt'\): choose another folder"):
        convert(sets, "csv", tmp_path / "mine")
    with pytest.raises(NotOursError, match="a file where a folder will be written"):
        convert(sets, "csv", tmp_path / "mine/notes.txt")
    (tmp_path / "in/val/0042.png").unlink()
    with pytest.raises(ValueError, match=r"0042\.png: cannot be read"):
        convert(sets, "csv", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["in", "mine"]
    put(tmp_path / "in/val/0042.png", png(42))
    (tmp_path / "out").mkdir()  # empty
    put(tmp_path / f".out{NEW}" / ".vlcap.json", '{"what": "data set", "files": {}}')  # of a run that was killed
    put(tmp_path / f".out{NEW}" / "train/0001.png", "half")
    convert(sets, "csv", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["in", "mine", "out"] and len(read_captions(tmp_path / "out", "val")) == 5


@pytest.mark.slow
def test_the_command_prints_what_is_there_and_writes_it_anew(tmp_path: Path):
    folder = layouts.sidecars(tmp_path / "in")
    put(folder / "train/0000.png", png(0))
    done = vlcap("data", folder, "--to", "coco", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"layout: photo and .txt, {folder}",
        "test: 5 photos, 15 captions",
        "train: 40 photos, 120 captions, and 1 photos without a caption",
        "val: 5 photos, 15 captions",
        f"note: {folder}, train: photos without a caption, skipped: 1",
    ]
    assert done.stderr.strip().endswith(f"vlcap: written to {tmp_path / 'out'}")
    assert len(read_captions(tmp_path / "out", "train")) == 40
    again = vlcap("data", folder, "--to", "coco", "--out", tmp_path / "out")
    assert again.returncode == 1 and "out is not empty" in again.stderr
    for arguments, message in ((["--to", "csv"], "go together"), (["--to", "csv", "--out", folder / "x"], "lies in")):
        refused = vlcap("data", folder, *arguments)
        assert refused.returncode == 2 and message in " ".join(refused.stderr.split())


@pytest.mark.slow
def test_the_command_prints_the_first_problems_by_line(tmp_path: Path):
    put(tmp_path / "1.png", png(1))
    put(tmp_path / "2.png", b"no photo")
    put(tmp_path / "3.png", png(3))
    rows = ["image,caption,split", "1.png,a dog,train", "2.png,a cat,train", *["1.png"] * 30]
    put(tmp_path / "captions.csv", layouts.lines(rows))
    put(tmp_path / "1.txt", "a dog")
    done = vlcap("data", tmp_path, "--check-photos")
    assert done.returncode == 1
    printed = done.stdout.splitlines()
    assert printed[:3] == [
        f"layout: table of captions (csv), {tmp_path / 'captions.csv'}",
        "train: 2 photos, 2 captions",
        "not read: photo and .txt (in and below the folder)",
    ]
    assert printed[3] == f"problem: {tmp_path / 'captions.csv'}, line 4: 1 columns where the header has 3"
    assert len(printed) == 24 and printed[-1] == "and 11 more problems: --json lists all"
    report = json.loads(vlcap("data", tmp_path, "--json", "--check-photos").stdout)
    assert len(report["problems"]) == 31 and "2.png: not an image" in report["problems"][-1]
    put(tmp_path / "captions.csv", layouts.lines(rows[:2]))
    assert survey(tmp_path).remarks == [f"{tmp_path}: photos that no caption names: 2"]
