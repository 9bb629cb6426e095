"""Shared by all readers of data sets: names of splits, missing files, copies named by content, classes by name."""

import itertools
import json
import os
import pickle
import shutil
import warnings

import pytest

from tests.support import drawings
from train.captioner import CaptionerRecipe
from train.classifier import Classification, ClassifierRecipe
from train.labels import LabelError, match_classes, read_labeled, read_words
from train.streaming import read_stream
from train.words import word_splitter
from vlcap.data.captions import CaptionDataError, read_captions
from vlcap.data.files import split_names
from vlcap.model.tokenizer import TokenizerError, train_tokenizer

NAMES = list(drawings.COLORS)
VAL = ("val", "valid", "validation", "dev")


@pytest.mark.parametrize("name", VAL)
def test_every_reader_knows_a_split_by_all_of_its_names(name, tmp_path):
    (tmp_path / "parquet").mkdir()
    drawings.write_parquet(tmp_path / "parquet" / f"{name}-00000-of-00001.parquet", range(4))
    drawings.write_class_folders(tmp_path / "folders", {name: 4})
    drawings.write_coco_folder(tmp_path / "coco", {f"{name}2017": 4})
    drawings.write_coco_folder(tmp_path / "karpathy", {"photos": 4})
    shutil.rmtree(tmp_path / "karpathy" / "annotations")
    (tmp_path / "karpathy" / "dataset.json").write_text(
        json.dumps(
            {
                "images": [
                    {
                        "imgid": n,
                        "split": name,
                        "filepath": "photos",
                        "filename": f"COCO_photos_{n:012d}.png",
                        "sentences": [{"raw": text} for text in drawings.describe(n)],
                    }
                    for n in range(4)
                ]
            }
        )
    )
    for asked in VAL:
        assert split_names(asked)[0] == asked and sorted(split_names(asked)) == sorted(VAL)
        for folder in ("parquet", "coco", "karpathy"):
            assert len(read_captions(tmp_path / folder, asked)) == 4
        for folder in ("parquet", "folders"):
            assert len(read_labeled(str(tmp_path / folder), asked)) == 4
        assert read_stream(str(tmp_path / "parquet"), asked).classes == NAMES


def test_test_is_not_validation(tmp_path):
    drawings.write_class_folders(tmp_path, {"train": 4, "test": 4})
    with pytest.raises(LabelError, match="val may be called val or valid or validation or dev"):
        read_labeled(str(tmp_path), "val")


def test_two_names_of_one_split(tmp_path):
    for name in ("valid", "dev"):
        drawings.write_parquet(tmp_path / f"{name}.parquet", range(4))
    with pytest.raises(CaptionDataError, match="more than one split 'val', say which"):
        read_captions(tmp_path, "val")
    assert len(read_captions(tmp_path, "dev")) == 4


def test_a_missing_file_is_warned_of(tmp_path):
    for shard in (0, 1):
        drawings.write_parquet(tmp_path / f"train-{shard:05d}-of-00003.parquet", range(shard * 4, shard * 4 + 4))
    for read in (read_captions, read_labeled, read_stream):
        with pytest.warns(UserWarning, match=r"1 of 3 files are missing, the first is train-00002-of-00003\.parquet"):
            read(str(tmp_path), "train")
    drawings.write_parquet(tmp_path / "train-00002-of-00003.parquet", range(8, 12))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert len(read_captions(tmp_path, "train")) == 12
    drawings.write_parquet(tmp_path / "train-00000-of-00001.parquet", range(12))
    with pytest.warns(UserWarning, match="files of several sets"):
        read_labeled(str(tmp_path), "train")


def test_a_file_written_anew_under_its_old_time_is_read_anew(tmp_path):
    """A file with the old time, as rsync -t leaves it."""
    path = tmp_path / "train.parquet"
    for numbers in (range(4), range(4, 8), range(4)):
        drawings.write_parquet(path, numbers)
        os.utime(path, (10**9, 10**9))
        captions = read_captions(tmp_path, "train")
        assert captions.files == [f"{n}.png" for n in numbers]
        assert captions.captions == [drawings.describe(n) for n in numbers]
        labeled = read_labeled(str(tmp_path), "train")
        assert labeled.load(0).tobytes() == drawings.draw(numbers[0]).tobytes()


def test_classes_are_one_if_their_names_are(tmp_path):
    """Classes in another order, fewer of them, and with another form of the same letters."""
    drawings.write_parquet(tmp_path / "train.parquet", range(8))
    drawings.write_parquet(tmp_path / "val.parquet", (0, 1, 3), names=["yellow", "green", "red"])
    classifier = Classification(
        ClassifierRecipe.load(None, ["encoder=lookupvit_test_patch8_48", "workers=0"]),
        [str(tmp_path)],
        tmp_path / "run",
    )
    val = classifier.val_set.labeled
    assert val.classes == NAMES
    assert [val.classes[target] for target in val.targets] == ["red", "green", "yellow"]

    drawings.write_class_folders(tmp_path / "folders", {"train": 8, "val": 8})
    (tmp_path / "folders" / "train" / "red").rename(tmp_path / "folders" / "train" / "caf\u00e9")
    (tmp_path / "folders" / "val" / "red").rename(tmp_path / "folders" / "val" / "cafe\u0301")
    shutil.rmtree(tmp_path / "folders" / "val" / "blue")
    train, val = (read_labeled(str(tmp_path / "folders"), split) for split in ("train", "val"))
    matched = match_classes(val, train.classes, "folders")
    assert {matched.classes[target] for target in matched.targets} == {"caf\u00e9", "green", "yellow"}


@pytest.mark.parametrize("kind", ["folders", "parquet"])
def test_classes_that_training_lacks_are_refused(kind, tmp_path):
    if kind == "folders":
        drawings.write_class_folders(tmp_path, {"train": 8, "val": 8})
        (tmp_path / "val" / "red").rename(tmp_path / "val" / "amber")
    else:
        drawings.write_parquet(tmp_path / "train.parquet", range(8))
        drawings.write_parquet(tmp_path / "val.parquet", range(4), names=[*NAMES[1:], "red", "amber"])
        assert match_classes(read_labeled(str(tmp_path), "val"), NAMES, "data").classes == NAMES  # no photo is amber
        drawings.write_parquet(tmp_path / "val.parquet", (1, 2), names=["green", "blue"])
        drawings.write_parquet(tmp_path / "train.parquet", (0, 2, 3), names=["red", "blue", "yellow"])
    with pytest.raises(LabelError, match=r"1 classes that the training lacks: '(amber|green)'\. The training has '"):
        Classification(
            ClassifierRecipe.load(None, ["encoder=lookupvit_test_patch8_48"]), [str(tmp_path)], tmp_path / "run"
        )


def test_a_name_for_two_classes_cannot_be_matched(tmp_path):
    drawings.write_class_folders(tmp_path, {"val": 8})
    with pytest.raises(LabelError, match="2 classes are called 'crane'"):
        match_classes(read_labeled(str(tmp_path), "val"), ["crane", "crane"], "birds")


def test_files_of_a_split_number_their_classes_alike(tmp_path):
    """datasets reads the names of the first file and the numbers of every file."""
    drawings.write_parquet(tmp_path / "train-00000-of-00002.parquet", range(4))
    drawings.write_parquet(tmp_path / "train-00001-of-00002.parquet", range(4), names=NAMES[::-1])
    for read in (read_labeled, read_stream):
        with pytest.raises(LabelError, match=r"train-00001.*not numbered as those of .*train-00000"):
            read(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man's 2nd dog.", {"a", "man", "s", "nd", "dog"}),
        ("Mädchen und Kühe", {"mädchen", "und", "kühe"}),
        ("Ma\u0308dchen", {"mädchen"}),
        ("Красный круг, на бумаге", {"красный", "круг", "на", "бумаге"}),
        ("लाल घेरा", {"लाल", "घेरा"}),
        ("دایره‌ای قرمز", {"دایره‌ای", "قرمز"}),
        ("빨간 원", {"빨간", "원"}),
        ("... 123 :-)", set()),
    ],
)
def test_words_in_many_scripts(text, words):
    assert word_splitter([text])(text) == words


@pytest.mark.parametrize(
    "parts",
    [
        (("一只狗", "一只猫", "一个男人"), ("在草地上", "在房间里", "在海边", "在街上"), ("奔跑", "睡觉", "玩耍")),
        (("หมา", "แมว", "ผู้ชาย"), ("วิ่ง", "นอน", "เล่น"), ("บนหญ้า", "ในห้อง", "ที่ทะเล")),
    ],
)
def test_scripts_without_spaces_are_split_by_a_tokenizers_pieces(parts):
    captions = ["".join(each) for each in itertools.product(*parts)]
    split = word_splitter(captions)
    words = [split(text) for text in captions]
    assert all(word in text for text, each in zip(captions, words, strict=True) for word in each)
    assert len(set.union(*words)) < len(captions)  # words that are repeated, not sentences
    assert split(f"{captions[0]} Dog!") == words[0] | {"dog"}


def test_words_of_a_split_without_any(tmp_path):
    folder = drawings.write_coco_folder(tmp_path / "data", {"train2014": 8, "val2014": 4})
    path = folder / "annotations" / "captions_val2014.json"
    data = json.loads(path.read_text())
    data["annotations"] = [each | {"caption": "красный круг"} for each in data["annotations"]]
    path.write_text(json.dumps(data, ensure_ascii=False))
    train = read_words([str(folder)], "train", words=8)
    with pytest.raises(LabelError, match="no caption of the val split has a word of the training split's"):
        read_words([str(folder)], "val", words=8, vocabulary=train.classes)
    path.rename(path.with_name("captions_train2014.json"))
    (folder / "val2014").rename(folder / "images")
    assert read_words([str(folder)], "train", words=8).classes == ["красный", "круг"]


def test_a_vocabulary_too_small_for_the_letters():
    with pytest.raises(TokenizerError, match=r"vocab_size 20 is too small .* at least \d+"):
        train_tokenizer(["一只狗在草地上奔跑", "一个男人站在树旁边和他的猫说话"], vocab_size=20)
    assert CaptionerRecipe.load(None).vocab_size > 20


def test_photos_can_be_sent_to_another_process(class_folder, captioned_folder, tmp_path):
    """macOS, Windows and Python 3.14 do so; a closure could not be sent."""
    drawings.write_parquet(tmp_path / "train.parquet", range(4))
    for labeled in (
        read_labeled(str(class_folder), "train"),
        read_labeled(str(tmp_path), "train"),
        read_words([str(captioned_folder), str(tmp_path)], "train", words=8),
    ):
        sent = pickle.loads(pickle.dumps(labeled))
        last = len(labeled) - 1
        assert sent.load(last).tobytes() == labeled.load(last).tobytes()
        assert sent.identity() == labeled.identity()
    stream = read_stream(str(tmp_path), "train")
    assert next(iter(pickle.loads(pickle.dumps(stream)).dataset))["label"] == 0
