"""Writes captioned photos in another layout. The photos' files are copied as they are, not encoded anew."""

import csv
import io
import json
import re
import tarfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from PIL import Image

from ..files.writing import check_new, new_tree
from ..tracking import Track, no_track
from .building import numbers_of
from .caption_set import CaptionDataError, CaptionSet
from .finding import is_image_name, is_video_name
from .images import FORMATS
from .names import shown
from .splits import split_in_name

PER_ARCHIVE = 1000  # photos in a tar file
ROWS = 100  # photos in memory while parquet is written
LONGEST_SPLIT = 100  # bytes; it is part of file names, which most systems end at 255 bytes
UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')  # not in file names of every system
SUFFIX_OF = {"JPEG": ".jpg", "JPEG2000": ".jp2", "TIFF": ".tif"}  # else the format's name in lower case


@dataclass(frozen=True)
class Photo:
    """A photo to write.

    Attributes:
        name: Its new file name; within a split, all names differ, even without suffix and in other cases.
        split: Name of its split.
        image_id: Its id.
        captions: Its captions.
        content: The bytes of its file.
    """

    name: str
    split: str
    image_id: int
    captions: list[str]
    content: bytes

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0]


def convert(sets: Sequence[CaptionSet], to: str, out: Path, track: Track = no_track) -> list[str]:
    """Writes all splits of a data set in a layout.

    Args:
        sets: The splits.
        to: Name of the layout, out of `WRITERS`.
        out: Folder to write; it must not exist, or be empty.
        track: Function that shows progress, from the places of a split's photos, their number and a description.

    Returns:
        What the layout cannot keep, one line each.

    Raises:
        CaptionDataError: A split's name or a caption cannot be written in that layout.
        ImageError: The file of a photo cannot be read.
        NotOursError, OSError: The folder cannot be written.
    """
    check_new(out)
    for captions in sets:
        _check(captions, to)
    with new_tree(out, "data set") as folder:
        WRITERS[to](folder, {each.split: _photos(each, track) for each in sets})
    if to != "kohya":
        return []
    lost = [each.split for each in sets if numbers_of(_names_for(each)) != each.image_ids]
    return [f"this layout keeps no ids: those of {', '.join(lost)} will be others"] if lost else []


def _check(captions: CaptionSet, to: str) -> None:
    """Checks that the names of a split and all of its captions can be written."""
    kept = {
        "coco": re.fullmatch(r"[A-Za-z]+\d*", captions.split),
        "parquet": re.fullmatch(r"\w+", captions.split),
    }.get(to, split_in_name(captions.split) == captions.split)
    if len(captions.split.encode()) > LONGEST_SPLIT:
        raise CaptionDataError(
            f"{captions.name}: the name of the split {shown(captions.split)} has more than {LONGEST_SPLIT} bytes: "
            "shorten it"
        )
    if not kept:
        raise CaptionDataError(
            f"{captions.name}: the split {shown(captions.split)} would not be found in this layout, where splits are "
            "called train, val or test: rename it, or write parquet"
        )
    for file, texts in zip(captions.files, captions.captions, strict=True):
        try:
            "".join(texts).encode()
        except UnicodeEncodeError:
            raise CaptionDataError(f"{captions.name}: a caption of {shown(file)} is not valid Unicode") from None


def _photos(captions: CaptionSet, track: Track) -> Iterator[Photo]:
    """The photos of a split, each read when it is asked for."""
    names = _names_for(captions)
    for i in track(range(len(captions)), len(captions), f"writing {captions.split}"):
        yield Photo(names[i], captions.split, captions.image_ids[i], captions.captions[i], captions.content(i))


def _names_for(captions: CaptionSet) -> list[str]:
    """New names for the photos of a split: their own, as far as all systems and layouts can keep them apart."""
    names: list[str] = []
    used: set[str] = set()
    for i, (file, image_id) in enumerate(zip(captions.files, captions.image_ids, strict=True)):
        base = unicodedata.normalize("NFC", re.split(r"[\\/]", file)[-1])
        known = is_image_name(base) or is_video_name(base)
        stem, suffix = base.rsplit(".", 1) if known else (str(image_id), "")
        suffix = f".{suffix}" if known else _suffix(captions.content(i))
        # A name of a file in a tar archive ends at the first dot.
        stem = UNSAFE.sub("_", stem.encode(errors="replace").decode()).strip(" .").replace(".", "_")[:80]
        stem = stem or str(image_id)
        if stem.casefold() in used:
            stem = f"{stem}_{image_id}"
        while stem.casefold() in used:
            stem += "_"
        used.add(stem.casefold())
        names.append(stem + suffix)
    return names


def _suffix(content: bytes) -> str:
    """The suffix for a photo without a name; .jpg for one that cannot be opened, as most are."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            found = image.format or "JPEG"
    except Exception:  # damaged: whoever opens it will be told
        found = "JPEG"
    return SUFFIX_OF.get(found, f".{found.lower()}")


Splits = Mapping[str, Iterator[Photo]]


def _write_kohya(folder: Path, splits: Splits) -> None:
    """{split}/photo.jpg and {split}/photo.txt, one caption per line."""
    for photo in _write_photos(folder, splits):
        lines = "".join(re.sub(r"[\r\n]+", " ", text) + "\n" for text in photo.captions)
        (folder / photo.split / f"{photo.stem}.txt").write_text(lines, encoding="utf-8", newline="\n")


def _write_imagefolder(folder: Path, splits: Splits) -> None:
    """{split}/metadata.jsonl and the photos beside it."""
    for split, photos in splits.items():
        (folder / split).mkdir()
        with _text_file(folder / split / "metadata.jsonl") as file:
            for photo in _write_photos(folder, {split: photos}):
                row = {"file_name": photo.name, "image_id": photo.image_id, "captions": photo.captions}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_csv(folder: Path, splits: Splits) -> None:
    """captions.csv with one row per caption, and the photos in {split}/."""
    with _text_file(folder / "captions.csv") as file:
        rows = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        rows.writerow(["image", "caption", "image_id", "split"])
        for photo in _write_photos(folder, splits):
            for text in photo.captions:
                # A text that would be read as a list of texts is written as one.
                cell = json.dumps([text], ensure_ascii=False) if text.startswith('["') else text
                rows.writerow([f"{photo.split}/{photo.name}", cell, photo.image_id, photo.split])


def _write_webdataset(folder: Path, splits: Splits) -> None:
    """{split}-00000.tar with photo.jpg, photo.txt (the first caption) and photo.json (all captions, the id)."""
    for split, photos in splits.items():
        for shard, numbered in groupby(enumerate(photos), key=lambda pair: pair[0] // PER_ARCHIVE):
            with tarfile.open(folder / f"{split}-{shard:05d}.tar", "w") as archive:
                for _, photo in numbered:
                    about = {"image_id": photo.image_id, "captions": photo.captions}
                    _add(archive, photo.name, photo.content)
                    _add(archive, f"{photo.stem}.txt", photo.captions[0].encode())
                    _add(archive, f"{photo.stem}.json", json.dumps(about, ensure_ascii=False).encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _write_coco(folder: Path, splits: Splits) -> None:
    """annotations/captions_{split}.json, and the photos in {split}/."""
    (folder / "annotations").mkdir()
    for split, photos in splits.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for photo in _write_photos(folder, {split: photos}):
            images.append({"id": photo.image_id, "file_name": photo.name})
            annotations += [
                {"id": len(annotations) + number, "image_id": photo.image_id, "caption": text}
                for number, text in enumerate(photo.captions)
            ]
        with _text_file(folder / "annotations" / f"captions_{split}.json") as file:
            json.dump({"images": images, "annotations": annotations}, file, ensure_ascii=False)


def _write_parquet(folder: Path, splits: Splits) -> None:
    """{split}.parquet with the columns image, captions and image_id, as Hugging Face datasets writes it."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    captions = datasets.List(datasets.Value("string"))
    features = datasets.Features({"image": datasets.Image(), "captions": captions, "image_id": datasets.Value("int64")})
    schema = features.arrow_schema
    for split, photos in splits.items():
        with pyarrow.parquet.ParquetWriter(folder / f"{split}.parquet", schema) as writer:
            while batch := [photo for photo, _ in zip(photos, range(ROWS), strict=False)]:
                rows = {
                    "image": [{"bytes": photo.content, "path": photo.name} for photo in batch],
                    "captions": [photo.captions for photo in batch],
                    "image_id": [photo.image_id for photo in batch],
                }
                writer.write_table(pyarrow.table(rows, schema=schema))


def _write_photos(folder: Path, splits: Splits) -> Iterator[Photo]:
    """Writes the photos into the folders of their splits, and gives each to be recorded."""
    for split, photos in splits.items():
        (folder / split).mkdir(exist_ok=True)
        for photo in photos:
            (folder / split / photo.name).write_bytes(photo.content)
            yield photo


def _text_file(path: Path) -> IO[str]:
    return open(path, "x", encoding="utf-8", newline="")


WRITERS: dict[str, Callable[[Path, Splits], None]] = {
    "kohya": _write_kohya,
    "imagefolder": _write_imagefolder,
    "csv": _write_csv,
    "webdataset": _write_webdataset,
    "coco": _write_coco,
    "parquet": _write_parquet,
}
