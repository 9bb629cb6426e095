"""Reads frames of a video, spread evenly over its time: the one function that opens video files.

    video file -> load_frames -> PIL images, RGB, upright -> pixels.py, as for photos

PyAV reads the files, with FFmpeg's libraries in its wheels: pip install 'vlcap[video]'. A video is decoded once from
beginning to end, and its frames are thinned on the way, so lengths and frame rates that a file promises need not be
right. Of a long video, only the key frames are decoded.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

from .images import ImageError, name_of, open_source, size_problem

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

FRAMES = 4  # that a caption is read from: enough for a video that shows several things (docs/video.md)
SIDE = 512  # pixels; frames come back with a short side of at most as many
LONG = 60.0  # seconds; of a longer video, only the key frames are decoded
MAX_PIXELS = 40_000_000  # of a frame: 8K has 33 million
LARGE = 4_000_000  # pixels; videos of larger frames are decoded one at a time, to bound the memory
DENSITY = 4  # frames kept for each one that is wanted, at least, if the video has them

# FFmpeg's names of the formats that are opened. Others are playlists, which name further files, or no videos.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,ivf,m4v,mxf,wtv,rm,dv"

_one_large = threading.Lock()
_TURNS = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}


class VideoError(ImageError):
    """A video cannot be used. The message is one line: the name of the file, then the fault."""


def can_read_videos() -> bool:
    """Whether the package that reads videos is installed."""
    return find_spec("av") is not None


def load_frames(
    source: str | os.PathLike | bytes | BinaryIO, count: int = FRAMES, name: str | None = None, side: int = SIDE
) -> list[Image.Image]:
    """Frames of a video in 8-bit RGB, upright: those in the middle of `count` equal stretches of its time.

    A video with fewer frames gives some of them several times. Of a damaged or truncated one, what can be decoded
    counts as the whole.

    Args:
        source: A path, the bytes of a video file, or a file opened for reading bytes.
        count: Number of frames.
        name: Name of the video in error messages; by default the path, or the kind of source.
        side: Frames are shrunk to a short side of this many pixels, if theirs is longer.

    Returns:
        `count` images of the same size.

    Raises:
        VideoError: The package av is missing, or the file has no frame that can be decoded, or too large ones.
        ImageError: The file is missing or unreadable.
    """
    name = name or name_of(source)
    if not can_read_videos():
        raise VideoError(f"{name}: reading videos needs the package av: pip install 'vlcap[video]'")
    import av

    with open_source(source, name) as file:
        try:
            found = _read(file, name, count, side, key_frames=True)
            if found is None:  # too few key frames, or a short video: every frame is decoded
                file.seek(0)
                found = _read(file, name, count, side, key_frames=False)
        except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
            if isinstance(error, ImageError):
                raise
            raise VideoError(f"{name}: {_problem(error)}") from error
    if not found:
        raise VideoError(f"{name}: no frame of it can be decoded: it is empty, damaged or cut short")
    return found


def _problem(error: Exception) -> str:
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    if "Invalid data" in reason or "End of file" in reason:
        return "not a video of a known format, or damaged, or cut short: copy or download it again"
    return f"this video cannot be decoded ({type(error).__name__}: {reason:.200})"


def _read(file: Any, name: str, count: int, side: int, key_frames: bool) -> list[Image.Image] | None:
    """The frames; None if only key frames were wanted, and the video is short or has too few."""
    import av
    from av.stream import Disposition

    with av.open(file, mode="r", options={"format_whitelist": FORMATS}, metadata_errors="replace") as container:
        streams = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
        if not streams:
            raise VideoError(f"{name}: no video in it, only {'sound' if container.streams.audio else 'other data'}")
        stream = streams[0]
        if stream.codec_context is None:
            raise VideoError(f"{name}: its codec is unknown, or the file is damaged: copy or download it again")
        length = float(container.duration / av.time_base) if container.duration else 0.0
        if key_frames:
            if length < LONG:
                return None
            stream.codec_context.skip_frame = "NONKEY"
        width, height = stream.codec_context.width, stream.codec_context.height
        with _one_large if width * height > LARGE else contextlib.nullcontext():
            thinned = _Thinned(DENSITY * count, side, name)
            for time, frame in _timed(container, stream):
                thinned.add(time, frame, stream.sample_aspect_ratio)
    if key_frames and len(thinned.kept) < count:
        return None
    return thinned.spread(count, at_least=length if key_frames else 0.0)


def _timed(container: InputContainer, stream: Any) -> Iterator[tuple[float, VideoFrame]]:
    """Each frame that can be decoded, with its time in seconds. Damaged packets are passed over."""
    import av

    tick = float(1 / stream.average_rate) if stream.average_rate else 0.04
    last: float | None = None
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # the rest of the file is missing
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        for frame in frames:
            time = frame.time
            if time is None or not math.isfinite(time):
                time = 0.0 if last is None else last + tick
            last = time
            yield time, frame


class _Thinned:
    """Frames in time order, at most `2 * enough`, and no two closer than a step, which grows with the video.

    Args:
        enough: At least so many are kept of a video that has them, unless they lie close together in time.
        side: Short side that they are shrunk to.
        name: Name of the video in error messages.
    """

    def __init__(self, enough: int, side: int, name: str):
        self.enough, self.side, self.name = enough, side, name
        self.kept: list[tuple[float, Image.Image]] = []
        self.step = self.end = 0.0

    def add(self, time: float, frame: VideoFrame, shape: Any) -> None:
        self.end = max(self.end, time + float((frame.duration or 0) * (frame.time_base or 0)))
        if self.kept and time < self.kept[-1][0] + self.step:
            return
        if problem := size_problem(frame.width, frame.height, MAX_PIXELS):
            raise VideoError(f"{self.name}: {problem}")
        self.kept.append((time, upright(frame, self.side, float(shape or 1))))
        if len(self.kept) > 2 * self.enough:
            self.step = (time - self.kept[0][0]) / self.enough
            thinner = self.kept[:1]
            for each in self.kept[1:]:
                if each[0] >= thinner[-1][0] + self.step:
                    thinner.append(each)
            self.kept = thinner

    def spread(self, count: int, at_least: float) -> list[Image.Image]:
        """The frames that are seen in the middle of `count` equal stretches of time; none if none is kept."""
        if not self.kept:
            return []
        start = self.kept[0][0]
        stretch = max(self.end - start, at_least) / count
        found = []
        for i in range(count):
            middle = start + (i + 0.5) * stretch
            found.append([image for time, image in self.kept if time <= middle or time == start][-1])
        return _alike(found)


def _alike(images: list[Image.Image]) -> list[Image.Image]:
    """The images at the size of the first one: a stream may change its size."""
    return [each if each.size == images[0].size else each.resize(images[0].size) for each in images]


def upright(frame: VideoFrame, side: int, shape: float) -> Image.Image:
    """A frame as RGB image, turned as its display matrix says, and shrunk while its colors are converted.

    Args:
        frame: The frame.
        side: Longest short side of the image in pixels.
        shape: Width of a pixel over its height.
    """
    width, height = frame.width * (shape if 0.1 < shape < 10 else 1.0), float(frame.height)
    scale = min(1.0, side / min(width, height))
    size = {"width": max(1, round(width * scale)), "height": max(1, round(height * scale))}
    image = frame.to_image(**size, interpolation="AREA" if scale < 1 else "BICUBIC", threads=1)
    turn = round((frame.rotation or 0) / 90) % 4  # counterclockwise
    return image.transpose(_TURNS[turn]) if turn else image
