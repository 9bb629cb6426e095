"""Captioned photos read as a stream, shard by shard: for data larger than the memory, on disks that seek slowly.

    vlcap train captioner --set stream=true --set steps=100000 --encoder RUN/encoder --data DIR --out RUN2

Streaming, shuffling and exact resume are those of streaming.py.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from vlcap.data.caption_set import CaptionDataError, MissingSplit
from vlcap.data.files import file_size, load_files, readable
from vlcap.data.images import load_image
from vlcap.data.names import shown
from vlcap.data.shards import captions_in
from vlcap.model.tokenizer import normalize_caption

from .label_files import split_files

TOKENIZER_PHOTOS = 100_000  # from the start of the stream, whose captions train the tokenizer
IMAGES = ("image", "jpg", "jpeg", "png", "webp")  # columns, or endings in an archive


@dataclass(frozen=True)
class CaptionStream:
    """Photos with captions, read in order, without random access.

    Args:
        name: Name of the folder.
        dataset: Streaming Hugging Face data set, images not decoded.
        column: Name of the column with the images.
        files: Files of the stream.
        tokenizer: Tokenizer of the captions, with the next three; needed for `example`.
        max_length: Maximum length of a caption in pieces, with start and end.
        lowercase: Whether captions are converted to lower case.
        captions_per_photo: Number of captions of each photo that are used, from the first; None for all.
    """

    name: str
    dataset: Any
    column: str
    files: list[str]
    tokenizer: PreTrainedTokenizerBase | None = None
    max_length: int = 40
    lowercase: bool = True
    captions_per_photo: int | None = None

    @property
    def images(self) -> int | None:
        return None

    def identity(self) -> str:
        """SHA-256 of the files' names and sizes, in hex."""
        files = [(Path(file).name, file_size(file)) for file in self.files]
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()

    def first_captions(self) -> Iterator[list[str]]:
        """The captions of the first photos."""
        for row in islice(self.dataset, TOKENIZER_PHOTOS):
            yield captions_of(row)[: self.captions_per_photo]

    def example(
        self, row: dict[str, Any], transform: Callable[[Image.Image], torch.Tensor]
    ) -> tuple[int, torch.Tensor, list[int]]:
        """0 in place of a row's number, the photo, and the pieces of one of its captions."""
        assert self.tokenizer is not None
        text = random.choice(captions_of(row)[: self.captions_per_photo])
        text = normalize_caption(text, self.lowercase)
        pieces = self.tokenizer(text, truncation=True, max_length=self.max_length - 1)["input_ids"]
        return 0, transform(load_image(row[self.column]["bytes"], name=self._place(row))), pieces

    def _place(self, row: dict[str, Any]) -> str:
        return f"{row.get('__key__', row[self.column].get('path'))} in {self.name}, train"


def read_caption_stream(folder: str, split: str) -> CaptionStream:
    """Opens a stream of captioned photos. Photos without a caption are skipped.

    Args:
        folder: Folder with {split}*.parquet (columns image and captions) or {split}*.tar (webdataset: jpg or png, and
            json with captions, or txt).
        split: Name of the split.

    Raises:
        CaptionDataError: There are no such files, or they are damaged or have no captions.
    """
    found = map(Path, split_files(Path(folder), split))
    # img2dataset writes a .parquet file without photos beside each archive
    files = [str(archive if (archive := path.with_suffix(".tar")).exists() else path) for path in found]
    if not files:
        raise MissingSplit(f"{folder} has no {split} split to stream: expected {split}*.parquet or {split}*.tar")
    kind = "webdataset" if files[0].endswith(".tar") else "parquet"
    with readable(files[0], kind, CaptionDataError):
        dataset = load_files(files, kind, split, streaming=True)
        if dataset.features is None:  # webdataset: only its first examples tell
            dataset = dataset._resolve_features()
    column = next((name for name in IMAGES if name in dataset.features), None)
    if column is None or not {"captions", "caption", "txt", "json"} & set(dataset.features):
        raise CaptionDataError(f"{files[0]}: needs photos and captions, there is {', '.join(dataset.features)}")
    from datasets import Image as ImageFeature

    dataset = dataset.cast_column(column, ImageFeature(decode=False)).filter(captions_of)
    return CaptionStream(Path(folder).name, dataset, column, files)


def captions_of(row: dict[str, Any]) -> list[str]:
    """The captions of a row of parquet or webdataset. Empty if it has none.

    Raises:
        CaptionDataError: A caption is no text.
    """
    told = next((row[key] for key in ("captions", "caption") if row.get(key)), None)
    if told is None:
        about, text = row.get("json"), row.get("txt")
        try:
            told = captions_in(about if isinstance(about, dict) else {}, text if isinstance(text, str) else None)
        except TypeError as error:
            raise CaptionDataError(f"{shown(str(row.get('__key__')))}: {error}") from error
    return [text.strip() for text in ([told] if isinstance(told, str) else told) if text and text.strip()]
