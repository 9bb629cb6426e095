"""Labeled photos in every layout; everything that is skipped is reported."""

import numpy as np
import pytest

from tests.support import drawings
from train.labels import LabelError, read_labeled, read_words


def test_what_class_folders_leave_out_is_warned_of(tmp_path):
    for name in ("cat/a.png", "cat/deeper/b.png", "dog/c.mpo"):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        drawings.draw(0).save(path)
    for name in ("cat/raw.cr2", "bird/notes.txt"):
        path = tmp_path / "train" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    with pytest.warns(UserWarning) as told:
        labeled = read_labeled(str(tmp_path), "train")
    assert labeled.classes == ["cat", "dog"] and labeled.targets.tolist() == [0, 0, 1]
    said = [str(warning.message) for warning in told]
    assert any("1 .txt (first: " in line and "bird" in line for line in said)
    assert any("1 .cr2 (first: " in line for line in said)
    assert said[-1] == f"{tmp_path / 'train'}: skipped folders without images: bird"


def test_a_class_is_the_same_however_its_accents_are_composed(tmp_path):
    for name in ("train/M\u00e4dchen", "val/Ma\u0308dchen"):
        (tmp_path / name).mkdir(parents=True)
        drawings.draw(0).save(tmp_path / name / "a.png")
    assert read_labeled(str(tmp_path), "val").classes == read_labeled(str(tmp_path), "train").classes


def test_only_other_files_are_no_classes(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "a.jxl").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"1 \.jxl"), pytest.raises(LabelError, match="no photos in folders here"):
        read_labeled(str(tmp_path), "train")


def test_words_are_the_captions_own(captioned_folder):
    train = read_words([str(captioned_folder)], "train", words=16)
    assert train.multi_label
    circle, ground = train.classes.index("circle"), train.classes.index("ground")
    assert train.targets[:8, circle].tolist() == [drawings.kind(i)[1] == "circle" for i in range(8)]
    assert train.targets[:8, ground].tolist() == pytest.approx([1 / 3] * 8)  # one of three captions has it
    val = read_words([str(captioned_folder)], "val", words=16, vocabulary=train.classes)
    assert val.classes == train.classes


def labeled_dataset(count):
    """A Hugging Face data set of drawings, labeled by color."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(drawings.COLORS))})
    return datasets.Dataset.from_dict(
        {"image": [drawings.draw(n) for n in range(count)], "label": [n % 4 for n in range(count)]}, features=features
    )


def test_labels_from_parquet(tmp_path):
    import datasets

    rows = labeled_dataset(8).with_format("arrow")
    rows = rows.map(datasets.table.embed_table_storage, batched=True).with_format(None)
    rows.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    labeled = read_labeled(str(tmp_path), "train")
    assert labeled.classes == list(drawings.COLORS)
    assert labeled.targets.tolist() == [0, 1, 2, 3] * 2
    assert np.array_equal(np.asarray(labeled.load(5)), np.asarray(drawings.draw(5)))
    with pytest.raises(LabelError, match="no val split"):
        read_labeled(str(tmp_path), "val")


def test_labels_from_the_hub(tmp_path, monkeypatch):
    """By name. The data set is made here, with the hub's names of the splits."""
    import datasets

    def load_dataset(name, split):
        assert name == "someone/colors"
        if split != "validation":
            raise ValueError(f"Unknown split \"{split}\". Should be one of ['validation'].")
        return labeled_dataset(8)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_labeled("someone/colors", "val").targets.tolist() == [0, 1, 2, 3] * 2
    with pytest.raises(LabelError, match="someone/colors has no train split"):
        read_labeled("someone/colors", "train")


def test_a_name_that_cannot_be_had():
    with pytest.raises(LabelError, match="no/such-data-set is neither a folder here"):
        read_labeled("no/such-data-set", "train")


def test_class_folders_are_classes(class_folder):
    labeled = read_labeled(str(class_folder), "train")
    assert labeled.classes == sorted(drawings.COLORS)
    assert labeled.targets.bincount().tolist() == [60] * 4
    assert labeled.load(0).mode == "RGB"


def test_no_such_data(tmp_path):
    with pytest.raises(LabelError, match="no train split"):
        read_labeled(str(tmp_path), "train")
