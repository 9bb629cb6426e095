"""Video files for tests, written by PyAV: moving windows over photos, and odd videos."""

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

PANS, ZOOMS = ("left", "right", "up", "down"), ("in", "out")
MOTIONS = (*PANS, *ZOOMS)


def moved(photo: Image.Image, motion: str, frames: int, side: int) -> list[Image.Image]:
    """A square window that moves over a photo: its frames, of `side` pixels.

    left shows the same windows as right in the reverse order, up those of down, and out those of in: no single frame
    tells which it is.
    """
    short = min(photo.size)
    found = []
    for i in range(frames):
        place = i / max(1, frames - 1)
        if motion in ("left", "up", "out"):
            place = 1 - place
        width = short * (0.75 if motion in PANS else 1 - 0.45 * place)
        left = (short - width) * (place if motion in ("left", "right") else 0.5)
        top = (short - width) * (place if motion in ("up", "down") else 0.5)
        found.append(photo.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + width, top + width)))
    return found


def write_video(
    path: Path,
    frames: Sequence[Image.Image],
    codec: str = "mpeg4",
    rate: int = 8,
    times: Sequence[float] | None = None,
    rotation: int = 0,
    sound: bool = False,
    gop: int = 12,
) -> Path:
    """Writes a video file.

    Args:
        path: The file; its suffix says the format.
        frames: Its frames, all of one size.
        codec: FFmpeg's name of the encoder.
        rate: Frames per second.
        times: Time of each frame in seconds, for a variable frame rate.
        rotation: Degrees by which a player has to turn it counterclockwise.
        sound: Whether it has a second of sound.
        gop: One frame in so many is a key frame.
    """
    tick = Fraction(1, rate) if codec == "mpeg2video" else Fraction(1, 1000)  # seconds; MPEG-2 has fixed rates
    with av.open(str(path), "w") as container:
        if frames:
            stream = container.add_stream(codec, rate=rate)
            stream.codec_context.gop_size = gop
            stream.width, stream.height = frames[0].size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.codec_context.time_base = tick
            if codec != "mjpeg":
                stream.codec_context.bit_rate = 4_000_000
            if rotation:
                stream.set_display_rotation(rotation)
        if sound:
            voice = container.add_stream("aac", rate=16000, layout="mono")
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_image(image)
            frame.pts = round((times[i] if times else i / rate) / tick)
            frame.time_base = tick
            container.mux(stream.encode(frame))
        if frames:
            container.mux(stream.encode(None))
        if sound:
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 16000), dtype=np.float32), format="fltp", layout="mono")
            tone.rate = 16000
            container.mux(voice.encode(tone))
            container.mux(voice.encode(None))
    return path


def write_motions(folder: Path, photos: Sequence[Image.Image], val: int, motions: Sequence[str] = MOTIONS) -> Path:
    """Writes {split}/{motion}/clip.mp4: each photo in all motions; the last `val` photos are held out."""
    for number, photo in enumerate(photos):
        for motion in motions:
            path = folder / ("val" if number >= len(photos) - val else "train") / motion / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, moved(photo, motion, frames=8, side=64))
    return folder


def write_captions(folder: Path, captions: Sequence[Sequence[str]], val: int, motions: Sequence[str] = MOTIONS) -> Path:
    """Writes captions_{split}.json beside what `write_motions` wrote: "panning left, " and a caption of the photo."""
    for split in ("train", "val"):
        images, annotations = [], []
        for number, texts in enumerate(captions):
            if (number >= len(captions) - val) != (split == "val"):
                continue
            for motion in motions:
                images.append({"id": len(images), "file_name": f"{split}/{motion}/{number}.mp4"})
                for text in texts:
                    said = f"{'panning' if motion in PANS else 'zooming'} {motion}, {text}"
                    annotations.append({"id": len(annotations), "image_id": images[-1]["id"], "caption": said})
        found = {"images": images, "annotations": annotations}
        (folder / f"captions_{split}.json").write_text(json.dumps(found), encoding="utf-8")
    return folder
