"""Captioned photos of one split, as every reader gives them. Videos are known by the suffixes of their names."""

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ..errors import VlcapError
from .finding import is_video_name
from .images import load_image
from .photo_sources import Source, content_of, size_of
from .videos import load_frames


class CaptionDataError(VlcapError, ValueError):
    """Caption data is missing or damaged. The message names the file and the fault."""


class MissingSplit(CaptionDataError):
    """Caption data does not have the split asked for."""


@dataclass(frozen=True, eq=False)
class CaptionSet:
    """Captioned photos of one split. The photos stay where they are until `image` opens one.

    Attributes:
        name: Name of the folder.
        split: Name of the split, as it was asked for.
        image_ids: One id per photo, all different.
        captions: One or more captions per photo, none empty.
        files: Name of each photo, to show a person.
        sources: Place of each photo: a list of paths and parts of archives, or a Hugging Face data set with the column
            image.
        dropped: Number of photos of the split that are left out because they have no caption.
    """

    name: str
    split: str
    image_ids: list[int] = field(repr=False)
    captions: list[list[str]] = field(repr=False)
    files: list[str] = field(repr=False)
    sources: Sequence[Source] = field(repr=False)
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.image_ids)

    @functools.cached_property
    def has_videos(self) -> bool:
        """Whether any of the photos is a video."""
        return any(map(is_video_name, self.files))

    def image(self, i: int) -> Image.Image:
        """Opens photo number `i`: RGB, upright. Of a video, it is the frame in the middle.

        Raises:
            ImageError: The photo cannot be used; the message names its file.
        """
        return self.clip(i, 1)[0]

    def clip(self, i: int, frames: int) -> list[Image.Image]:
        """`frames` frames of video number `i`, evenly spaced in time. For a photo: the photo, `frames` times.

        Raises:
            ImageError: The video or photo cannot be used; the message names its file.
        """
        source = self.sources[i]
        name = None if isinstance(source, str) else f"{self.files[i]} in {self.name}, {self.split}"
        found = source if isinstance(source, str) else content_of(source)
        if is_video_name(self.files[i]):
            return load_frames(found, frames, name=name)
        return [load_image(found, name=name)] * frames

    def content(self, i: int) -> bytes:
        """The bytes of the file of photo number `i`.

        Raises:
            ImageError: The file cannot be read.
        """
        return content_of(self.sources[i])

    def references(self) -> dict[int, list[str]]:
        """Captions by image_id, as the metrics take them."""
        return dict(zip(self.image_ids, self.captions, strict=True))

    def fingerprint(self) -> str:
        """SHA-256 of the ids, captions, file names and bytes of all photos, in hex.

        The first call reads every photo; the result is kept.

        Raises:
            ImageError: A photo's file cannot be read.
        """
        return self._fingerprint

    def identity(self) -> str:
        """SHA-256 of the ids, captions, file names and sizes of all photos, in hex. No photo is read."""
        sizes: Iterable[int]
        if isinstance(self.sources, list):
            sizes = map(size_of, self.sources)
        else:
            import pyarrow.compute

            rows: Any = self.sources
            images = rows.with_format("arrow")["image"][:]
            sizes = pyarrow.compute.binary_length(pyarrow.compute.struct_field(images, "bytes")).to_pylist()
        digest = hashlib.sha256()
        for record in zip(self.image_ids, self.captions, self.files, sizes, strict=True):
            digest.update(json.dumps(record).encode())
        return digest.hexdigest()

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for i, source in enumerate(self.sources):
            content = content_of(source)
            # The length separates the bytes of one photo from the record of the next.
            digest.update(json.dumps([self.image_ids[i], self.captions[i], self.files[i], len(content)]).encode())
            digest.update(content)
        return digest.hexdigest()
