"""Clips of videos for the classification trainer: class folders of video files, for encoders that read clips.

    vlcap train classifier --data DIR --out RUN --set encoder=lookupvivit_mini_patch8x2_96 --set hflip=0

DIR holds train/CLASS/clip.mp4 and val/CLASS/clip.mp4. A clip is as many frames as the encoder reads, spread evenly over
the whole video (vlcap/data/videos.py). All frames of a clip are augmented alike. A horizontal flip changes the
direction of a motion: with classes that differ in it, set hflip to 0.

Legend of shapes
    B: clips   T: frames   S: side of a frame in pixels
"""

from collections.abc import Sequence
from typing import Any

import torch

from .labels import LabeledPhotos, LabeledSet, LabelError
from .photos import Transform, VideoFiles, origin, transform_alike


class LabeledClips(LabeledPhotos):
    """(uint8 pixels (T, 3, S, S), target) pairs of a `LabeledSet` of videos.

    Args:
        labeled: The videos.
        transform: What is done with a frame, at random or not; with all frames of a clip alike.
        frames: T.
    """

    def __init__(self, labeled: LabeledSet, transform: Transform, frames: int):
        super().__init__(labeled, transform)
        self.frames = frames

    def __getitem__(self, row: int) -> tuple[torch.Tensor, ...]:
        return transform_alike(self.labeled.clip(row, self.frames), self.transform), self.labeled.targets[row]


def are_videos(labeled: Any) -> bool:
    """Whether these are videos and not photos.

    Raises:
        LabelError: They are both.
    """
    if not isinstance(labeled, LabeledSet):
        return False
    kinds = {isinstance(origin(photos, i)[0], VideoFiles) for photos, i in labeled.photos}
    if len(kinds) > 1:
        raise LabelError("one --data holds photos, another one videos: train on one of them")
    return kinds == {True}


def check_kind(encoder: str, frames: int | None, sets: Sequence[Any]) -> None:
    """Refuses photos for an encoder of clips, and videos for one of photos.

    Args:
        encoder: Name of the encoder.
        frames: Frames that it reads; None for photos.
        sets: What was read of each split.

    Raises:
        LabelError: Data and encoder do not fit together.
    """
    for labeled in sets:
        if are_videos(labeled) and not frames:
            raise LabelError(
                f"{labeled.photos[0][0].name} holds videos, and {encoder} reads photos: "
                "it takes an encoder of clips, such as lookupvivit_mini_patch8x2_96"
            )
        if frames and not are_videos(labeled):
            raise LabelError(f"{encoder} reads clips of videos: --data must hold train/CLASS/clip.mp4 and val/CLASS")


def check_settings(frames: int | None, recipe: Any) -> None:
    """Refuses what clips cannot be trained with.

    Args:
        frames: Frames that the encoder reads; None for photos.
        recipe: The run's settings.

    Raises:
        LabelError: A setting is for photos.
    """
    unable = [name for name in ("mixup", "cutmix", "teacher", "cache_views") if frames and getattr(recipe, name)]
    if unable:
        raise LabelError(f"clips are trained without {', '.join(unable)}: leave {unable[0]} at its default")
