"""The demo's folder of uploads: its quota, what is swept when, and what a killed demo leaves. `app/demo/uploads.py`."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from app.demo import start, uploads
from app.demo.uploads import LOCK, PREFIX, FullError, Uploads, own_folder
from tests.support.demo_captioner import talking_captioner


def put(path: Path, size: int = 10, age: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_all_files_share_a_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "QUOTA", 1_000_000)
    files = Uploads(tmp_path, own=False)
    put(tmp_path / "a" / "a.png", 400_000)
    put(tmp_path / "b" / "b.png", 1)
    assert files.used() == 400_000 + uploads.SMALLEST  # many empty files count too
    with pytest.raises(FullError), files.arrival(600_000):
        pass
    with pytest.raises(FullError), files.arrival(0) as count:  # of unknown size
        put(tmp_path / "part", 300_000)
        count(300_000)
        with files.arrival(0) as other:  # two at once share what is left
            other(300_000)
    assert files.arriving == 0


def test_room_is_made_of_files_that_are_not_new(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "QUOTA", 1_000_000)
    monkeypatch.setattr(uploads, "KEPT_WHEN_FULL", -1)  # a file's ctime can't be set back
    old, own = put(tmp_path / "a" / "a.png", 700_000), put(tmp_path / "b" / "icon.png")
    files = Uploads(tmp_path, own=True)
    files.kept = lambda: {str(own)}
    with files.arrival(600_000):
        assert not old.exists() and not old.parent.exists() and own.exists()


def test_swept_by_age_but_not_the_pages_own(tmp_path):
    photo, icon, lock = (put(tmp_path / name) for name in ("a/photo.png", "b/icon.png", LOCK))
    part, old_part = put(tmp_path / "tmpabc"), put(tmp_path / "tmpdef", age=uploads.UNFINISHED + 1)
    files = Uploads(tmp_path, own=True)
    files.kept = lambda: {str(icon)}
    files.sweep()
    assert photo.exists() and part.exists() and not old_part.exists()
    files.sweep(-1)
    assert icon.exists() and lock.exists() and not photo.exists()


# Only the file itself: the whole demo takes long to import.
HOLD = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("uploads", sys.argv[1])
uploads = importlib.util.module_from_spec(spec)
spec.loader.exec_module(uploads)
with uploads.own_folder() as folder:
    (folder / "photo.png").touch()
    print(folder, flush=True)
    time.sleep(300)
"""


def test_what_a_killed_demo_left_is_swept_and_a_running_ones_is_not(tmp_path, monkeypatch):
    """D5: kill -9 deletes nothing, so the next start does."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = [sys.executable, "-S", "-c", HOLD, uploads.__file__]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    demos = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        folders = [Path(demo.stdout.readline().strip()) for demo in demos]
        (tmp_path / "elsewhere").mkdir()
        link = tmp_path / f"{PREFIX}link"
        link.symlink_to(tmp_path / "elsewhere")
        theirs = [tmp_path / f"{PREFIX}{name}" for name in ("pictures", "with_lock")]  # a person's, with such a name
        for folder in theirs:
            folder.mkdir()
            (folder / "photo.png").touch()
            os.utime(folder, (0, 0))
        (theirs[1] / LOCK).touch()
        demos[0].kill()
        demos[0].wait(30)
        assert all(folder.exists() for folder in folders)
        with own_folder() as own:
            assert not folders[0].exists() and folders[1].exists() and link.is_symlink() and own.exists()
            assert all((folder / "photo.png").exists() for folder in theirs)
        assert not own.exists()
    finally:
        for demo in demos:
            demo.kill()
            demo.communicate(timeout=30)


@pytest.mark.slow
def test_an_aborted_upload_leaves_nothing(tmp_path, monkeypatch):
    """D5: a visitor who leaves in the middle of an upload."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    page = start(talking_captioner(), folder=tmp_path)
    try:
        before = {path for path in tmp_path.rglob("*") if path.is_file()}
        with socket.create_connection(("127.0.0.1", page.server_port)) as visitor:
            head = (
                f"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1:{page.server_port}\r\nContent-Length: 1000000\r\n"
                "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
                '--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
            )
            visitor.sendall(head.encode() + bytes(200_000))
            deadline = time.monotonic() + 20
            while {path for path in tmp_path.rglob("*") if path.is_file()} == before:
                assert time.monotonic() < deadline, "the upload never began"
                time.sleep(0.05)
        while {path for path in tmp_path.rglob("*") if path.is_file()} != before:
            assert time.monotonic() < deadline, "a part of an aborted upload is left"
            time.sleep(0.05)
    finally:
        page.close(verbose=False)
