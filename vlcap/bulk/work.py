"""Captions groups of photos, one after the other. A group is what is written at once, and what a kill can lose.

Which photos share a group depends on the list of photos alone. So a run that goes on after a kill computes what an
uninterrupted run would have computed, to the last bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import auto_budget
from ..auto_budget import AutoBudget
from ..captioner import Caption, Captioner
from ..data.finding import is_video_name
from ..data.images import ImageError, one_line
from ..data.names import plain_line
from ..data.reading import read_ahead
from ..data.videos import FRAMES
from ..video import read_video
from .journal import Done
from .rows import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Wish:
    """What is asked of the captions.

    Attributes:
        budget: Side of the compressed grid, or the rule that chooses it; None for the captioner's own.
        count: Captions for each photo, all different.
        min_score: Captions with a lower score are left out; None to keep all.
        prefix: Text before each caption.
        suffix: Text after each caption.
        generation: As for `Captioner.caption`.
        frames: Frames of each video that are read.
    """

    budget: int | AutoBudget | None = None
    count: int = 1
    min_score: float | None = None
    prefix: str = ""
    suffix: str = ""
    generation: Mapping[str, Any] = field(default_factory=dict)
    frames: int = FRAMES


@dataclass(frozen=True)
class Captioned:
    """A photo with its captions.

    Attributes:
        photo: Its path, or what else stood for it in its group.
        captions: The captions that are kept, with prefix and suffix, in the order of the search.
        left_out: Captions whose score is too low, in the order of the search.
        error: The error of an unreadable photo.
    """

    photo: Any
    captions: tuple[Caption, ...] = ()
    left_out: tuple[Caption, ...] = ()
    error: ImageError | None = None

    def done(self, name: str) -> Done:
        """What a journal says of it, and a file of captions, where it has this name."""
        return Done(self.rows(name), len(self.left_out))

    def rows(self, name: str) -> list[Row]:
        """Its rows in a file of captions, where it has this name."""
        if self.error is not None:
            return [Row(name, problem=str(self.error).removeprefix(f"{one_line(self.photo)}: "))]
        if not self.captions:
            best = max(self.left_out, key=lambda caption: caption.score)
            return [Row(name, "", round(best.score, 3), best.budget)]
        return [Row(name, each.text, round(each.score, 3), each.budget) for each in self.captions]


def in_groups(photos: Sequence[Path], size: int, frames: int = FRAMES) -> list[Sequence[Path]]:
    """Photos in groups of at most this size, and videos in groups with as many frames; no group has both."""
    groups: list[Sequence[Path]] = []
    for videos, same in groupby(photos, key=_is_video):
        found, step = list(same), max(1, size // frames) if videos else size
        groups += [found[start : start + step] for start in range(0, len(found), step)]
    return groups


def _is_video(photo: Any) -> bool:
    return isinstance(photo, Path) and is_video_name(photo.name)


def _read(captioner: Captioner, frames: int, photo: Path) -> NDArray:
    """uint8 pixels of a photo (3, S, S), or of a video's frames (F, 3, S, S)."""
    return read_video(captioner, photo, frames) if _is_video(photo) else captioner.read(photo)


def caption_groups(
    captioner: Captioner,
    groups: Iterable[Sequence[Any]],
    wish: Wish,
    read: Callable[[Any], NDArray] | None = None,
    readers: int | None = None,
) -> Iterator[list[Captioned]]:
    """Captions each group of photos. The next groups are read and encoded while one is decoded.

    Args:
        captioner: The captioner.
        groups: Groups of photos, or of videos; none is empty. They are asked for one by one, and as many photos are
            read ahead as the largest one has, or the first one of an iterator.
        wish: What is asked of the captions.
        read: Function that reads a photo, uint8 pixels (3, S, S), or raises ImageError. Left out, the photos are paths
            of photos and videos.
        readers: Threads that read photos; None for one per core, at most 8.

    Raises:
        CaptionerError, EncoderError: The captioner cannot do what is asked.
    """
    largest = max(map(len, groups), default=1) if isinstance(groups, list) else 1
    groups = iter(groups)
    first = next(groups, ())
    sizes: deque[int] = deque()  # of the groups that are being read
    groups_read: deque[list[tuple[Any, ImageError | None]]] = deque()  # and not yet captioned

    def all_photos() -> Iterator[Any]:
        for group in chain([first] if first else [], groups):
            sizes.append(len(group))
            yield from group

    ahead = 2 * max(largest, len(first))
    photos = read_ahead(all_photos(), read or partial(_read, captioner, wish.frames), ahead, workers=readers)

    def batches() -> Iterator[NDArray]:
        for start in photos:
            found = [start, *islice(photos, sizes.popleft() - 1)]
            groups_read.append([(path, pixels if isinstance(pixels, ImageError) else None) for path, pixels in found])
            if good := [pixels for _, pixels in found if not isinstance(pixels, ImageError)]:
                yield np.stack(good)

    def finished(captions: Iterator[Caption]) -> list[Captioned]:
        group = groups_read.popleft()
        return [Captioned(path, error=error) if error else _kept(path, next(captions), wish) for path, error in group]

    for captions in captions_of(captioner, batches(), wish):
        while all(error for _, error in groups_read[0]):  # a group without a single readable photo has no batch
            yield finished(iter(()))
        yield finished(iter(captions))
    while groups_read:
        yield finished(iter(()))


def captions_of(captioner: Captioner, batches: Iterable[NDArray], wish: Wish) -> Iterator[list[Caption]]:
    """Captions of batches of uint8 pixels at the wished budget or by its rule; all are kept.

    Batches are as for `Captioner.caption_batches`.

    Raises:
        CaptionerError, EncoderError: The captioner cannot do what is asked.
    """
    if isinstance(wish.budget, AutoBudget):
        return auto_budget.caption_batches(captioner, batches, wish.budget, wish.count, **wish.generation)
    return captioner.caption_batches(batches, wish.budget, wish.count, **wish.generation)


def _kept(photo: Path, best: Caption, wish: Wish) -> Captioned:
    kept: list[Caption] = []
    left_out: list[Caption] = []
    for caption in (best, *best.others):
        # The rounded score is what the files show: a caption there is never below the limit.
        low = wish.min_score is not None and round(caption.score, 3) < wish.min_score
        (left_out if low else kept).append(_dressed(caption, wish))
    return Captioned(photo, tuple(kept), tuple(left_out))


def _dressed(caption: Caption, wish: Wish) -> Caption:
    """A caption on one line, with prefix and suffix."""
    text = wish.prefix + plain_line(caption.text) + wish.suffix
    return Caption(text, caption.budget, caption.ms, caption.ids, caption.logprobs)
