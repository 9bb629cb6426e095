"""Hostile videos: damaged files of several formats, playlists, and frames that are too large."""

import random
import tempfile
from functools import cache
from pathlib import Path

from tests.support import drawings
from tests.support.clips import write_video
from vlcap.data.videos import MAX_PIXELS, load_frames

from . import mutate

FORMS = (("mp4", "mpeg4"), ("mkv", "mpeg4"), ("avi", "mjpeg"), ("mpg", "mpeg2video"), ("flv", "flv"), ("mov", "h264"))
PLAYLISTS = (
    b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    b"ffconcat version 1.0\nfile /etc/passwd\n",
    b"<?xml version='1.0'?><MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>",
)


@cache
def seeds() -> list[bytes]:
    """Small videos, one for each form."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix, codec in FORMS:
            path = Path(folder, f"seed.{suffix}")
            found.append(write_video(path, [drawings.draw(i) for i in range(12)], codec, rate=25).read_bytes())
    return found


def make(rng: random.Random, folder: Path) -> Path:
    path = folder / "input.mp4"
    kind = rng.random()
    if kind < 0.03:
        path.write_bytes(rng.choice(PLAYLISTS))
    else:
        data = rng.choice(seeds())
        path.write_bytes(mutate.bytes_of(rng, data, others=seeds()) if kind < 0.97 else data)
    return path


def read(path: Path) -> None:
    images = load_frames(path, count=3)
    assert len(images) == 3 and len({image.size for image in images}) == 1
    assert all(image.mode == "RGB" and image.width * image.height <= MAX_PIXELS for image in images)
