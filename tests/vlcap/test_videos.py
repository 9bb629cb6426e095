"""Frames and captions of videos: files that PyAV writes here, ordinary and odd."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import drawings
from tests.support.clips import moved, write_video
from vlcap.bulk.sidecars import beside
from vlcap.bulk.work import Wish, caption_groups, in_groups
from vlcap.captioner import Captioner
from vlcap.data import videos
from vlcap.data.captions import read_captions
from vlcap.data.finding import find_images, without_videos
from vlcap.data.images import ImageError
from vlcap.data.videos import VideoError, load_frames
from vlcap.engines.interface import encode
from vlcap.evaluation.evaluate import predict
from vlcap.video import caption_videos, read_video

GREYS = [Image.new("RGB", (64, 48), (level, level, level)) for level in range(0, 250, 10)]


def levels(frames):
    """Mean grey of each frame."""
    return [round(float(np.asarray(frame).mean())) for frame in frames]


@pytest.fixture(scope="module")
def brighter(tmp_path_factory):
    """25 greys, ten brighter each."""
    return write_video(tmp_path_factory.mktemp("videos") / "brighter.mp4", GREYS)


def test_frames_are_spread_over_the_time(brighter):
    assert levels(load_frames(brighter, 5)) == pytest.approx([20, 70, 120, 170, 220], abs=11)
    [middle] = load_frames(brighter.read_bytes(), 1)
    assert middle.mode == "RGB" and middle.size == (64, 48)
    assert levels([middle]) == pytest.approx([120], abs=11)
    assert len(load_frames(brighter, 60)) == 60  # more than there are: some come several times


def test_many_frames_are_thinned_on_the_way(tmp_path, monkeypatch):
    kept = []
    real = videos._Thinned.add

    def add(self, *given):
        real(self, *given)
        kept.append(len(self.kept))

    monkeypatch.setattr(videos._Thinned, "add", add)
    many = [GREYS[i // 8] for i in range(200)]
    found = load_frames(write_video(tmp_path / "many.mp4", many, rate=25), 5)
    assert levels(found) == pytest.approx([20, 70, 120, 170, 220], abs=21)
    assert len(kept) == 200 and max(kept) <= 2 * 5 * videos.DENSITY


def test_variable_frame_rate(tmp_path):
    """Twenty dark frames in the first 1.5 seconds, then a bright one for eight: most of the time is bright."""
    dark, bright = GREYS[2], GREYS[20]
    times = [i * 0.075 for i in range(20)] + [1.5, 9.9]
    path = write_video(tmp_path / "screen.mp4", [dark] * 20 + [bright] * 2, times=times)
    assert levels(load_frames(path, 5)) == pytest.approx([20, 200, 200, 200, 200], abs=6)


@pytest.mark.parametrize(("rotation", "corner"), [(90, (10, 90)), (180, (110, 70)), (-90, (70, 10))])
def test_turned_as_the_metadata_says(tmp_path, rotation, corner):
    image = Image.new("RGB", (120, 80))
    image.paste((255, 255, 255), (0, 0, 40, 40))  # white at the upper left
    [found] = load_frames(write_video(tmp_path / "phone.mp4", [image] * 3, rotation=rotation), 1)
    expected = image.rotate(rotation, expand=True)
    assert found.size == expected.size
    assert np.abs(np.asarray(found, dtype=int) - np.asarray(expected, dtype=int)).mean() < 6, corner


def test_4k_is_shrunk_while_it_is_decoded(tmp_path):
    path = write_video(tmp_path / "large.mp4", [Image.new("RGB", (3840, 2160), "navy")] * 2)
    assert {frame.size for frame in load_frames(path, 4)} == {(910, 512)}


def test_one_frame(tmp_path):
    path = write_video(tmp_path / "one.mp4", GREYS[12:13])
    assert levels(load_frames(path, 4)) == pytest.approx([120] * 4, abs=6)


def test_truncated(tmp_path, brighter):
    """What is there is used; a file whose index is missing gives one line."""
    whole = write_video(tmp_path / "whole.mkv", [drawings.draw(i) for i in range(40)]).read_bytes()
    (tmp_path / "half.mkv").write_bytes(whole[: len(whole) // 2])
    assert len(load_frames(tmp_path / "half.mkv", 4)) == 4
    (tmp_path / "half.mp4").write_bytes(brighter.read_bytes()[:-200])
    with pytest.raises(VideoError, match=r"half\.mp4: not a video of a known format, or damaged, or cut short"):
        load_frames(tmp_path / "half.mp4")


def test_what_is_no_video(tmp_path, monkeypatch):
    playlist = tmp_path / "list.mp4"
    playlist.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
    (tmp_path / "text.mov").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    for name in ("list.mp4", "text.mov", "empty.mp4"):
        with pytest.raises(VideoError, match=rf"{name}: (not a video|this video|no frame)") as caught:
            load_frames(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(VideoError, match="no video in it, only sound"):
        load_frames(write_video(tmp_path / "song.mp4", [], sound=True))
    with pytest.raises(ImageError, match="no such file"):
        load_frames(tmp_path / "missing.mp4")
    monkeypatch.setattr(videos, "MAX_PIXELS", 1000)
    with pytest.raises(VideoError, match="too large, 64 x 48 pixels"):
        load_frames(write_video(tmp_path / "large.mp4", GREYS[:1]))
    monkeypatch.setattr(videos, "find_spec", lambda name: None)
    with pytest.raises(VideoError, match=r"pip install 'vlcap\[video\]'"):
        load_frames(tmp_path / "large.mp4")


def test_without_frames(tmp_path):
    """A video stream whose packets are all gone."""
    whole = write_video(tmp_path / "whole.mkv", GREYS[:2]).read_bytes()
    (tmp_path / "none.mkv").write_bytes(whole[: whole.index(b"\x1f\x43\xb6\x75")])  # where Matroska's first cluster is
    with pytest.raises(VideoError, match=r"none\.mkv: (no frame|not a video)"):
        load_frames(tmp_path / "none.mkv")


def test_only_key_frames_of_a_long_video(tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "LONG", 2.0)
    grain = np.random.default_rng(0).integers(0, 100, (48, 64, 3), dtype=np.uint8)  # or each grey would be a key frame
    frames = [Image.fromarray(grain + np.uint8(6 * i)) for i in range(25)]
    path = write_video(tmp_path / "long.mp4", frames, gop=5)
    decoded = []
    real = videos.upright
    monkeypatch.setattr(videos, "upright", lambda *given: decoded.append(1) or real(*given))
    assert levels(load_frames(path, 2)) == pytest.approx([80, 140], abs=16)
    assert len(decoded) == 5
    few = write_video(tmp_path / "few.mp4", frames, gop=300)  # one key frame: all frames are read
    assert levels(load_frames(few, 5)) == pytest.approx([62, 92, 122, 152, 182], abs=8)


def test_a_still_video_has_the_caption_of_its_picture(captioner, tmp_path):
    """Tokens that are read several times get the attention that they would get once."""
    pixels = captioner.preprocess([drawings.draw(0), drawings.draw(1)])
    [photos] = captioner.caption_batches([pixels])
    [stills] = captioner.caption_batches([np.stack([pixels] * 3, axis=1)])
    assert [each.ids for each in stills] == [each.ids for each in photos]
    assert stills[0].logprobs == pytest.approx(photos[0].logprobs, abs=1e-4)


def test_the_tokens_of_all_frames_are_read(captioner):
    frames = captioner.preprocess([drawings.draw(number) for number in range(6)])
    together = encode(captioner.engine, frames.reshape(2, 3, *frames.shape[1:]), 3)
    apart = captioner.encode(frames, 3)
    assert together.shape == (2, 27, apart.shape[2])
    assert np.array_equal(together[1, 9:18], apart[4])


@pytest.fixture(scope="module")
def bundled():
    return Captioner.from_pretrained(engine="onnx", budget=3)


@pytest.mark.slow
def test_both_engines_write_the_same(bundled, tmp_path):
    photo = Image.open(Path(__file__).parents[2] / "app/demo/examples/photographer.jpg").convert("RGB")
    path = write_video(tmp_path / "clip.mp4", moved(photo, "left", 8, 160))
    found = caption_videos(bundled, [path], budget=3)
    assert found == caption_videos(Captioner.from_pretrained(engine="pytorch"), [path], budget=3)
    assert read_video(bundled, path, 3).shape == (3, 3, bundled.pixels.size, bundled.pixels.size)


def test_captioned_videos(captioner, tmp_path):
    """A data set may list videos: frames of each are read together, and for what reads photos, the middle one."""
    write_video(tmp_path / "1.mp4", GREYS)
    drawings.draw(2).save(tmp_path / "2.png")
    names = ["1.mp4", "2.png"]
    lines = [json.dumps({"file_name": name, "text": "it gets brighter", "split": "val"}) for name in names]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    captions = read_captions(tmp_path, "val")
    assert captions.has_videos and captions.files == names
    assert levels(captions.clip(0, 5)) == levels(load_frames(tmp_path / "1.mp4", 5))
    assert levels([captions.image(0)]) == levels(load_frames(tmp_path / "1.mp4", 1)) != levels(captions.clip(0, 2)[:1])
    assert [each.tobytes() for each in captions.clip(1, 2)] == [drawings.draw(2).tobytes()] * 2
    found = [caption.text for _, caption in predict(captioner, captions)]
    assert found == [*caption_videos(captioner, [tmp_path / "1.mp4"]), *captioner.caption([tmp_path / "2.png"])]
    (tmp_path / "1.mp4").write_bytes(b"no video")
    with pytest.raises(ImageError, match=r"1\.mp4"):
        [*predict(captioner, captions)]


def test_folders_with_photos_and_videos(captioner, tmp_path):
    """In the order of their names; each video in its turn, and an odd one has its error there."""
    for number in (0, 1, 3, 4):
        drawings.draw(number).save(tmp_path / f"{number}.png")
    write_video(tmp_path / "2.mp4", [drawings.draw(2)] * 3)
    write_video(tmp_path / "5.mov", [], sound=True)
    write_video(tmp_path / "6.avi", [drawings.draw(6)] * 3)
    found = find_images([tmp_path], videos=True)
    groups = in_groups(found.images, 8, frames=4)
    assert [len(group) for group in groups] == [2, 1, 2, 2]
    done = [each for group in caption_groups(captioner, groups, Wish(3)) for each in group]
    assert [each.photo.name for each in done] == [path.name for path in sorted(tmp_path.iterdir())]
    assert [each.photo.name for each in done if each.error] == ["5.mov"]
    assert all(each.captions for each in done if not each.error)

    left, lines = without_videos(find_images([tmp_path]))
    assert not left.others and left.complete
    assert len(lines) == 1 and "skipped 3 videos" in lines[0] and "pip install 'vlcap[video]'" in lines[0]


@pytest.mark.slow
def test_the_command(tmp_path):
    from tests.support.command import vlcap

    write_video(tmp_path / "a.mp4", [drawings.draw(2)] * 3)
    drawings.draw(1).save(tmp_path / "a.png")
    (tmp_path / "notes.pdf").touch()
    done: subprocess.CompletedProcess = vlcap("caption", tmp_path, "--frames", 2, "--budget", 3)
    assert done.returncode == 0, done.stderr
    named = [line.split(": ")[0] for line in done.stdout.splitlines()]
    assert named == [str(tmp_path / name) for name in ("a.mp4", "a.png")]
    assert "skipped 1 file" in done.stderr and "1 .pdf" in done.stderr


def test_a_file_beside_each(tmp_path):
    """A phone's short video has the name of its photo."""
    assert beside(tmp_path / "1.heic", ".txt").name == "1.txt"
    assert beside(tmp_path / "1.MOV", ".txt").name == "1.MOV.txt"
