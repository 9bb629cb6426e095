"""Captions of videos, by any captioner. Of one of photos, the tokens of several frames are read together.

    from vlcap import Captioner
    from vlcap.video import caption_videos
    caption_videos(Captioner.from_pretrained(), ["clip.mp4"])

Nothing is trained for it. The decoder's cross-attention has no positions, so it reads the tokens of F frames like those
of one photo with F times as many. A video of one still picture gets the caption of that picture. A captioner whose
encoder reads clips (LookupViViT) sees all frames at once, and their order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .data.videos import FRAMES, load_frames
from .errors import CaptionerError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .captioner import Captioner


def frames_of(captioner: Captioner, asked: int | None = None) -> int:
    """Number of frames that a captioner reads of a video: what is asked for, or the clips that its encoder reads.

    Raises:
        CaptionerError: Its encoder reads clips of another length.
    """
    own = captioner.facts.frames
    if own and asked not in (None, own):
        raise CaptionerError(f"{captioner.name} reads clips of {own} frames, not of {asked}")
    return own or asked or FRAMES


def read_video(captioner: Captioner, video: Any, frames: int = FRAMES) -> NDArray[np.uint8]:
    """A video, in any form that `load_frames` takes -> uint8 pixels of its frames (F, 3, S, S).

    Raises:
        ImageError: The video cannot be read.
    """
    return captioner.preprocess(load_frames(video, frames))


def caption_videos(
    captioner: Captioner, videos: Iterable[Any], frames: int | None = None, budget: int | None = None, **generation: Any
) -> list[str]:
    """Captions of videos, in their order.

    Args:
        captioner: The captioner.
        videos: Paths, bytes or binary files.
        frames: Frames of each video that are read; None for 4, or for the clips that the captioner's encoder reads.
        budget: Side of the compressed grid of a frame or clip; None for the captioner's default.
        generation: As for `Captioner.caption`.

    Raises:
        ImageError: A video cannot be read.
        EncoderError, CaptionerError: The budget does not fit the grid, or the engine's graphs; or the captioner reads
            another number of frames.
    """
    count = frames_of(captioner, frames)
    batches = (read_video(captioner, each, count)[None] for each in videos)
    return [best.text for [best] in captioner.caption_batches(batches, budget, **generation)]
