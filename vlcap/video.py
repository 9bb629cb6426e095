"""Captions of videos, by any captioner of photos: the tokens of several frames are read together.

    from vlcap import Captioner
    from vlcap.video import caption_videos
    caption_videos(Captioner.from_pretrained(), ["clip.mp4"])

Nothing is trained for it. The decoder's cross-attention has no positions, so it reads the tokens of F frames like those
of one photo with F times as many. A video of one still picture gets the caption of that picture.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from .data.videos import FRAMES, load_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .captioner import Captioner


def read_video(captioner: Captioner, video: Any, frames: int = FRAMES) -> NDArray[np.uint8]:
    """A video, in any form that `load_frames` takes -> uint8 pixels of its frames (F, 3, S, S).

    Raises:
        ImageError: The video cannot be read.
    """
    return np.stack([captioner.pixels.cut(each) for each in load_frames(video, frames)])


def caption_videos(
    captioner: Captioner, videos: Iterable[Any], frames: int = FRAMES, budget: int | None = None, **generation: Any
) -> list[str]:
    """Captions of videos, in their order.

    Args:
        captioner: The captioner.
        videos: Paths, bytes or binary files.
        frames: Frames of each video that are read.
        budget: Side of the compressed grid of a frame; None for the captioner's default.
        generation: As for `Captioner.caption`.

    Raises:
        ImageError: A video cannot be read.
        EncoderError, CaptionerError: The budget does not fit the grid, or the engine's graphs.
    """
    batches = (read_video(captioner, each, frames)[None] for each in videos)
    return [best.text for [best] in captioner.caption_batches(batches, budget, **generation)]
