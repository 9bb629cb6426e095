"""train.labels: what folders of photos hold besides is said, and nothing is left out without a word."""

import pytest

from tests.support import drawings
from train.labels import LabelError, read_labelled


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
        labelled = read_labelled(str(tmp_path), "train")
    assert labelled.classes == ["cat", "dog"] and labelled.targets.tolist() == [0, 0, 1]
    said = [str(warning.message) for warning in told]
    assert any("1 .txt (first: " in line and "bird" in line for line in said)
    assert any("1 .cr2 (first: " in line for line in said)
    assert said[-1] == f"{tmp_path / 'train'}: skipped folders without images: bird"


def test_a_class_is_the_same_however_its_accents_are_composed(tmp_path):
    for name in ("train/M\u00e4dchen", "val/Ma\u0308dchen"):
        (tmp_path / name).mkdir(parents=True)
        drawings.draw(0).save(tmp_path / name / "a.png")
    assert read_labelled(str(tmp_path), "val").classes == read_labelled(str(tmp_path), "train").classes


def test_only_other_files_are_no_classes(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "a.jxl").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"1 \.jxl"), pytest.raises(LabelError, match="no photos in folders here"):
        read_labelled(str(tmp_path), "train")
