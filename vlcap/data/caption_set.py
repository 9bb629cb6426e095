"""Captioned photos of one split, as every reader gives them."""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import VlcapError
from .files import file_size
from .images import ImageError, load_image


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
        sources: Place of each photo: a path, or a row {"image": {"bytes", "path"}} of a data set on disk.
        dropped: Number of photos of the split that are left out because they have no caption.
    """

    name: str
    split: str
    image_ids: list[int] = field(repr=False)
    captions: list[list[str]] = field(repr=False)
    files: list[str] = field(repr=False)
    sources: Sequence[str | Mapping[str, Mapping]] = field(repr=False)
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.image_ids)

    def image(self, i: int) -> Image.Image:
        """Opens photo number `i`: RGB, upright.

        Raises:
            ImageError: The photo cannot be used; the message names its file.
        """
        source = self.sources[i]
        if isinstance(source, str):
            return load_image(source)
        return load_image(source["image"]["bytes"], name=f"{self.files[i]} in {self.name}, {self.split}")

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
            sizes = map(file_size, self.sources)
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
            if isinstance(source, str):
                try:
                    if not os.path.isfile(source):  # reading a device or a pipe could take forever
                        raise ImageError(f"{source}: cannot be read (not a file)")
                    content = Path(source).read_bytes()
                except OSError as error:
                    raise ImageError(f"{source}: cannot be read ({error.strerror})") from error
            else:
                content = source["image"]["bytes"]
            # The length separates the bytes of one photo from the record of the next.
            digest.update(json.dumps([self.image_ids[i], self.captions[i], self.files[i], len(content)]).encode())
            digest.update(content)
        return digest.hexdigest()
