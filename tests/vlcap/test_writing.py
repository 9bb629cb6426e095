"""What may be replaced or deleted: only folders with the marker, and in them only files that were written."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from vlcap.files.writing import (
    MARKER,
    NEW,
    NotOursError,
    check_replaceable,
    delete,
    fresh_folder,
    replacing,
    written_whole,
)


def write(folder, what=None, **files):
    with written_whole(folder, what) as new:
        for name, text in files.items():
            (new / name).write_text(text)


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != MARKER}


def test_own_files_are_replaced_and_others_stay(tmp_path):
    folder = tmp_path / "encoder"
    write(folder, weights="old", index="old")
    (folder / "README.md").write_text("a card")
    (folder / "more").mkdir()
    (folder / "more" / "notes.txt").write_text("notes")
    write(folder, weights="new")
    shutil.rmtree(folder / "more")
    assert content(folder) == {"weights": "new", "README.md": "a card"}  # index was ours and is no longer written
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


@pytest.mark.parametrize("kind", ["somebody's folder", "a file", "another kind of folder", "a changed file", "a link"])
def test_what_is_not_ours_is_refused_and_stays(kind, tmp_path):
    folder = tmp_path / "encoder"
    if kind == "somebody's folder":
        folder.mkdir()
        (folder / "weights").write_text("mine")
    elif kind == "a file":
        folder.write_text("mine")
    else:
        write(folder, "captioner" if kind == "another kind of folder" else None, weights="mine")
        if kind == "a changed file":
            (folder / "weights").write_text("tuned by hand")
        elif kind == "a link":
            (folder / "weights").rename(tmp_path / "weights")
            (folder / "weights").symlink_to(tmp_path / "weights")
    before = folder.read_text() if folder.is_file() else content(folder)
    with pytest.raises(NotOursError, match=re.escape(str(folder))) as refused:
        check_replaceable(folder)
    assert "move it elsewhere" in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(NotOursError):
        write(folder, weights="new")
    assert (folder.read_text() if folder.is_file() else content(folder)) == before


def test_a_new_name_that_somebody_has_taken(tmp_path):
    folder = tmp_path / "encoder"
    write(folder, weights="old")
    (folder / "index").write_text("mine")
    with pytest.raises(NotOursError, match="index is in the way"):
        write(folder, weights="new", index="new")
    assert content(folder) == {"weights": "old", "index": "mine"}


def test_a_failure_leaves_what_was_there(tmp_path):
    folder = tmp_path / "encoder"
    for before in ({}, {"weights": "old"}):
        if before:
            write(folder, **before)
        with pytest.raises(OSError, match="no room"), written_whole(folder) as new:
            (new / "weights").write_text("half")
            raise OSError("no room")
        assert (content(folder) if folder.exists() else {}) == before
        assert len(list(tmp_path.iterdir())) == len(before)


@pytest.mark.parametrize("moment", range(13))
def test_killed_at_any_moment_it_can_be_written_again(moment, tmp_path):
    """The process ends before its nth call that changes the disk."""
    folder = tmp_path / "encoder"
    write(folder, weights="old", index="old")
    (folder / "README.md").write_text("a card")
    program = """
import os, sys
from pathlib import Path
from vlcap.files.writing import written_whole
calls = iter(range(int(sys.argv[2])))
def counted(name, function):
    def call(*arguments, **options):
        if next(calls, None) is None:
            os._exit(9)
        return function(*arguments, **options)
    return call
for name in ("mkdir", "replace", "rename", "unlink", "rmdir", "fsync"):
    setattr(os, name, counted(name, getattr(os, name)))
with written_whole(Path(sys.argv[1])) as new:
    for name in ("weights", "index"):
        (new / name).write_text("new")
"""
    done = subprocess.run([sys.executable, "-c", program, folder, str(moment)], check=False)
    assert done.returncode in (0, 9)
    there = {path.name for path in folder.iterdir() if path.name not in (MARKER, NEW)}
    assert there == {"weights", "index", "README.md"}
    write(folder, weights="newer", index="newer")
    assert content(folder) == {"weights": "newer", "index": "newer", "README.md": "a card"}


def test_somebodys_folder_under_the_name_of_an_unfinished_one(tmp_path):
    new = tmp_path / ".encoder.vlcap.new"
    new.mkdir()
    (new / "notes.txt").write_text("mine")
    with pytest.raises(NotOursError, match="in the way"):
        write(tmp_path / "encoder", weights="new")
    assert (new / "notes.txt").read_text() == "mine"


def test_links_are_written_through(tmp_path):
    """Links to a folder, to a file, and to a missing one; the links stay links."""
    (tmp_path / "elsewhere").mkdir()
    for name, target in (("encoder", "elsewhere"), ("captioner", "later")):
        (tmp_path / name).symlink_to(target)
        for text in ("old", "new"):
            write(tmp_path / name, weights=text)
        assert content(tmp_path / target) == {"weights": "new"}
        assert (tmp_path / name).is_symlink()
    (tmp_path / "log").symlink_to("elsewhere/log")
    for text in ("old", "new"):
        with replacing(tmp_path / "log") as file:
            file.write(text)
    assert (tmp_path / "elsewhere" / "log").read_text() == "new" and (tmp_path / "log").is_symlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_where_nothing_may_be_written(tmp_path):
    shut = tmp_path / "shut"
    shut.mkdir()
    (tmp_path / "encoder").symlink_to("shut")
    shut.chmod(0o500)
    with pytest.raises(PermissionError):
        check_replaceable(tmp_path / "encoder")


def test_a_marker_names_nothing_outside_its_folder(tmp_path):
    folder = tmp_path / "encoder"
    write(folder, weights="old")
    (tmp_path / "mine").write_text("old")
    marker = folder / MARKER
    marker.write_text(marker.read_text().replace('"weights"', '"../mine"'))
    with pytest.raises(NotOursError):
        write(folder, other="new")
    assert (tmp_path / "mine").read_text() == "old"


def test_fresh_folders(tmp_path):
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke-1").write_text("mine")
    (tmp_path / "smoke-09").mkdir()
    (tmp_path / "smoke-old").mkdir()
    assert [fresh_folder(tmp_path, "smoke").name for _ in range(3)] == ["smoke-10", "smoke-11", "smoke-12"]


def test_only_names_of_ours_are_deleted(tmp_path):
    for name in ("step-00000001.tmp", "step-00000001.tmp.txt", "notes.tmp"):
        (tmp_path / name).touch()
    delete(tmp_path.iterdir(), re.compile(r"step-\d+\.tmp"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.tmp", "step-00000001.tmp.txt"]
