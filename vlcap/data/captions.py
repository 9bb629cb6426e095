"""Captioned photos in the layouts people have them in, and COCO's caption files: references and results.

Used by every command that reads a data set (`vlcap cache`, `train`, `evaluate`, `compare`) through `read_captions`, and
by `vlcap score` through `read_coco_captions` and `read_coco_results`. The layout of a folder is the first that fits:

    Karpathy   dataset_coco.json, dataset_flickr8k.json, dataset_flickr30k.json or dataset.json; photos in {filepath}/,
               images/ or beside the file; its restval counts as train
    COCO       annotations/captions_{split}{year}.json, or {split}_{year}; photos in {split}{year}/, {split}/ or
               images/; where a folder has two years, the split names one: "val2014"
    parquet    {split}.parquet or {split}-*.parquet, also in data/; columns image, captions or caption, image_id
    COCO file  captions_{split}.json; photos as in COCO, or beside the file
"""

import functools
import hashlib
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast
from unicodedata import normalize
from urllib.parse import unquote

from PIL import Image

from ..errors import VlcapError
from ..files.writing import replacing
from .files import file_size, load_files, split_names
from .images import ImageError, load_image, one_line

# By name, as Hugging Face puts a dataset_info.json beside parquet files.
KARPATHY_FILES = ("dataset_coco.json", "dataset_flickr8k.json", "dataset_flickr30k.json", "dataset.json")
COCO_FILE = re.compile(r"captions_([A-Za-z]+)[_-]?(\d*)\.json")
PARQUET_FILE = re.compile(r"(\w+)(?:-.+)?\.parquet")

Parsed = TypeVar("Parsed")
Place = TypeVar("Place")


class CaptionDataError(VlcapError, ValueError):
    """Caption data is missing, or not what it should be; the message says where and what."""


class MissingSplit(CaptionDataError):
    """Caption data that has other splits than the one asked for."""


@dataclass(frozen=True, eq=False)
class CaptionSet:
    """Captioned photos of one split. The photos stay where they are until `image` opens one.

    Attributes:
        name: Name of the folder.
        split: The split asked for.
        image_ids: One id per photo, each once.
        captions: One or more captions per photo, none empty.
        files: Name of each photo, to show a person.
        sources: Where each photo is: a path, or a row {"image": {"bytes", "path"}} of a data set on disk.
        dropped: How many photos of the split are left out because they have no caption.
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
        """Gives the captions by image_id, as the metrics take them."""
        return dict(zip(self.image_ids, self.captions, strict=True))

    def fingerprint(self) -> str:
        """Computes the SHA-256 of the ids, captions, file names and bytes of all photos, in hex.

        Reads every photo the first time; the result is kept.

        Raises:
            ImageError: A photo's file cannot be read.
        """
        return self._fingerprint

    def identity(self) -> str:
        """Computes the SHA-256 of the ids, captions, names and sizes of all photos, in hex; no photo is read."""
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
                    if not os.path.isfile(source):  # a device or a pipe could be read for ever
                        raise ImageError(f"{source}: cannot be read (no file)")
                    content = Path(source).read_bytes()
                except OSError as error:
                    raise ImageError(f"{source}: cannot be read ({error.strerror})") from error
            else:
                content = source["image"]["bytes"]
            # The length keeps the bytes of one photo and the record of the next apart.
            digest.update(json.dumps([self.image_ids[i], self.captions[i], self.files[i], len(content)]).encode())
            digest.update(content)
        return digest.hexdigest()


def read_captions(folder: str | os.PathLike, split: str, limit: int | None = None) -> CaptionSet:
    """Reads one split of a folder of captioned photos.

    Args:
        folder: A folder in one of the layouts at the top of this file.
        split: "train", "val", "test", or whatever splits the folder has.
        limit: Take the first so many photos; None takes all.

    Returns:
        The photos in the order of the file they are listed in, without those that have no caption.

    Raises:
        CaptionDataError: No such folder, layout or split; a file is damaged; photos are missing; an id comes twice.
    """
    folder = Path(os.path.abspath(folder))
    if not os.path.isdir(folder):
        raise CaptionDataError(f"{folder}: no such folder")
    if limit is not None and limit < 1:
        raise CaptionDataError(f"limit must be at least 1, got {limit}")

    if karpathy := [folder / name for name in KARPATHY_FILES if (folder / name).is_file()]:
        if len(karpathy) > 1:
            names = ", ".join(path.name for path in karpathy)
            raise CaptionDataError(f"{folder}: only one of {names} can be read, move the others elsewhere")
        return _read_karpathy(folder, karpathy[0], split, limit)
    if files := _by_split(folder / "annotations", COCO_FILE):
        return _read_coco(folder, files, split, limit)
    if files := _by_split(folder, PARQUET_FILE) or _by_split(folder / "data", PARQUET_FILE):
        return _read_parquet(folder, files, split, limit)
    if files := _by_split(folder, COCO_FILE):
        return _read_coco(folder, files, split, limit)
    found = [
        f"{name}/ with {_listed(sorted(os.listdir(folder / name)))}"
        if name in ("annotations", "data") and (folder / name).is_dir()
        else name
        for name in sorted(os.listdir(folder))
    ]
    raise CaptionDataError(
        f"{folder}: no captions found. Expected dataset_coco.json, annotations/captions_{split}2014.json (or 2017), "
        f"{split}.parquet or captions_{split}.json, but there is {_listed(found)}"
    )


def read_coco_captions(path: str | os.PathLike) -> dict[int, list[str]]:
    """Reads the references of a COCO caption annotation file.

    Returns:
        The captions by image_id, in the order of the file, empty ones left out.

    Raises:
        CaptionDataError: The file is missing, damaged, of another kind, or without captions.
    """
    filled = {image_id: _filled(captions) for image_id, captions in _references(_json(path), path).items()}
    references = {image_id: captions for image_id, captions in filled.items() if captions}
    if not references:
        raise CaptionDataError(f"{path}: no captions in this file")
    return references


def read_coco_results(path: str | os.PathLike) -> dict[int, str]:
    """Reads predictions from a COCO result file, [{"image_id": 1, "caption": "a dog"}, ...].

    Raises:
        CaptionDataError: The file is missing, damaged, of another kind, or has two captions for an image.
    """
    data = _json(path)
    if not isinstance(data, list):
        raise CaptionDataError(
            f"{path}: a result file is a list of image_id and caption, this is a {type(data).__name__}"
        )
    results: dict[int, str] = {}
    for image_id, caption in _parsed(data, f"{path}: entry ", _annotation):
        if image_id in results:
            raise CaptionDataError(f"{path}: image_id {image_id} comes twice, a result file has one caption per image")
        results[image_id] = caption
    return results


def write_coco_results(path: str | os.PathLike, predictions: Mapping[int, str]) -> None:
    """Writes predictions as a COCO result file, one entry per line; a file that is there is replaced whole or not."""
    path = Path(path)
    entries = [{"image_id": int(image_id), "caption": caption} for image_id, caption in predictions.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write("[" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "]\n")


def _read_karpathy(folder: Path, path: Path, split: str, limit: int | None) -> CaptionSet:
    """Reads a split of Karpathy's JSON: images[] with split, filepath, filename, cocoid or imgid, sentences[].raw."""
    photos: dict[str, list[tuple[int, list[str], str]]] = {}
    for part, image_id, captions, name in _parsed(
        _list(_json(path), "images", path), f"{path}: images ", _karpathy_photo
    ):
        photos.setdefault(part, []).append((image_id, captions, name))
    part = _matching(photos, split, path)
    listed = [(image_id, name) for each in photos.values() for image_id, _, name in each]
    return _from_files(
        folder, split, *_usable(photos[part], f"{path}, {part}", limit), places=("", "images"), listed=listed
    )


def _karpathy_photo(entry: dict) -> tuple[str, int, list[str], str]:
    """Gives split, image_id, captions and file name of an entry."""
    image_id = _id(entry["cocoid"] if "cocoid" in entry else entry["imgid"])
    captions = [_text(sentence["raw"]) for sentence in entry["sentences"]]
    split, name, place = _text(entry["split"]), _text(entry["filename"]), _text(entry.get("filepath", ""))
    return "train" if split == "restval" else split, image_id, captions, f"{place}/{name}" if place else name


def _read_coco(folder: Path, files: Mapping[str, list[Path]], split: str, limit: int | None) -> CaptionSet:
    """Reads a split from COCO's JSON: images[] with id and file_name, annotations[] with image_id and caption."""
    part = _matching(files, split, folder)  # "val2014" for "val"
    path = files[part][0]
    data = _json(path)
    references = _references(data, path)
    photos = [
        (image_id, references.get(image_id, []), name)
        for image_id, name in _parsed(_list(data, "images", path), f"{path}: images ", _coco_photo)
    ]
    if unknown := references.keys() - {photo[0] for photo in photos}:
        raise CaptionDataError(f"{path}: image_id {min(unknown)} has captions but is not among the file's images")
    written, bare = path.stem.removeprefix("captions_"), part.rstrip("0123456789")
    beside = (written, part, bare)
    places = (*beside, *(f"images/{place}" for place in beside), "images", "")
    listed = [(image_id, name) for image_id, _, name in photos]
    return _from_files(folder, split, *_usable(photos, str(path), limit), places=places, listed=listed)


def _references(data: Any, path: str | os.PathLike) -> dict[int, list[str]]:
    """Collects the captions of a COCO annotation file by image_id, as they are."""
    references: dict[int, list[str]] = {}
    for image_id, caption in _parsed(_list(data, "annotations", path), f"{path}: annotations ", _annotation):
        references.setdefault(image_id, []).append(caption)
    return references


def _annotation(entry: dict) -> tuple[int, str]:
    return _id(entry["image_id"]), _text(entry["caption"])


def _coco_photo(entry: dict) -> tuple[int, str]:
    return _id(entry["id"]), _text(entry["file_name"])


def _read_parquet(folder: Path, files: Mapping[str, list[Path]], split: str, limit: int | None) -> CaptionSet:
    """Reads a split from parquet files through Hugging Face datasets, whose cache keeps the photos on disk."""
    import datasets
    import pyarrow.compute

    paths = files[_matching(files, split, folder)]
    where = str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    try:
        rows = load_files(paths, "parquet")
        text = "captions" if "captions" in rows.column_names else "caption"
        if "image" not in rows.column_names or text not in rows.column_names:
            found = _listed(rows.column_names)
            raise CaptionDataError(f"{where}: needs the columns image and captions (or caption), there is {found}")
        rows = rows.cast_column("image", datasets.Image(decode=False))
    except CaptionDataError:
        raise
    except Exception as error:  # datasets hides what pyarrow found behind an error of its own
        reason = " ".join(str(error.__cause__ or error).split())
        raise CaptionDataError(f"{where}: cannot be read as parquet ({reason})") from error

    images = rows.data.column("image")
    if pyarrow.compute.struct_field(images, "bytes").null_count:
        raise CaptionDataError(
            f"{where}: rows without the bytes of their photo; paths alone are not enough, embed the photos"
        )

    def parse(row: dict) -> tuple[int, list[str], int]:
        captions = [row[text]] if isinstance(row[text], str) else row[text] or []
        return _id(row.get("image_id", row["row"])), [_text(caption or "") for caption in captions], row["row"]

    texts = rows.select_columns([name for name in ("image_id", text) if name in rows.column_names]).to_list()
    photos = list(_parsed([row | {"row": number} for number, row in enumerate(texts)], f"{where}: row ", parse))
    kept, dropped = _usable(photos, where, limit)
    names = pyarrow.compute.struct_field(images, "path").to_pylist()
    return CaptionSet(
        name=one_line(folder.name),
        split=split,
        image_ids=[image_id for image_id, _, _ in kept],
        captions=[captions for _, captions, _ in kept],
        files=[names[row] or f"row {row}" for _, _, row in kept],
        sources=rows.select_columns(["image"]).select([row for _, _, row in kept]),
        dropped=dropped,
    )


def _from_files(
    folder: Path,
    split: str,
    photos: list[tuple[int, list[str], str]],
    dropped: int,
    places: Iterable[str],
    listed: Sequence[tuple[int, str]],
) -> CaptionSet:
    """Makes the set of photos that are files in one of `places`; `listed` is all that the file lists: ids and names."""
    first: dict[tuple[str, ...], int] = {}
    for image_id, name in listed:
        if first.setdefault(_parts(name), image_id) != image_id:
            raise CaptionDataError(
                f"{folder}: image_ids {first[_parts(name)]} and {image_id} are both the photo {_shown(name)}: "
                "list it once, with all of its captions"
            )
    names = [name for _, _, name in photos]
    files = _locate(folder, names, list(dict.fromkeys(places)), {name for _, name in listed})
    return CaptionSet(
        name=one_line(folder.name),
        split=split,
        image_ids=[image_id for image_id, _, _ in photos],
        captions=[captions for _, captions, _ in photos],
        files=files,
        sources=[os.path.join(folder, file) for file in files],
        dropped=dropped,
    )


def _parts(name: str) -> tuple[str, ...]:
    """A path's parts, the same ones however it is written."""
    return tuple(part for part in normalize("NFC", name).replace("\\", "/").split("/") if part not in ("", "."))


def _locate(folder: Path, names: list[str], places: Sequence[str], listed: set[str]) -> list[str]:
    """Finds photos by the names that an annotation file gives them.

    A name is tried in three forms: as it is; with / for \\, as Windows writes paths; and its last part alone, as
    labelling tools write paths and addresses of their own machine. In each form all photos are looked for in one place
    after another; the first place that has all of them serves. The last part alone is only taken for a photo if no
    other name in the file ends in it. Names are followed through the listings of folders, in which no `..` occurs, so
    that none leads out of the folder. Letters with accents are the same letters however they are composed.

    Args:
        folder: Where the places are.
        names: Of the photos that are looked for.
        places: Folders relative to `folder`.
        listed: All names in the file, those of other splits too.

    Returns:
        Their paths relative to `folder`.

    Raises:
        CaptionDataError: Photos are missing, or can't be told apart by their names.
    """
    tree = _Tree(folder)
    endings = Counter(map(_last_part, listed))
    forms: tuple[Callable[[str], str], ...] = (
        str,
        lambda name: name.replace("\\", "/"),
        lambda name: _last_part(name) if endings[_last_part(name)] == 1 else "",
    )
    fewest = names
    for form in forms:
        for place in places:
            files = [tree.find(f"{place}/{form(name)}") if form(name) else None for name in names]
            if None not in files:
                return cast(list[str], files)
            missing = [name for name, file in zip(names, files, strict=True) if file is None]
            if len(missing) < len(fewest):
                fewest = missing
    problem = (
        f"none of the {len(names)} photos is here"
        if len(fewest) == len(names)
        else f"{len(fewest)} of the {len(names)} photos are missing"
    )
    shared = sum(endings[_last_part(name)] > 1 for name in fewest)
    alike = f"; {shared} can't be told apart without their folders, as others have the same name" if shared else ""
    raise CaptionDataError(
        f"{folder}: {problem}, the first is {_shown(fewest[0])}; looked in {_listed(place or '.' for place in places)}"
        f"{alike}"
    )


def _last_part(name: str) -> str:
    """What a path or an address ends in, on whatever system it was written; letters with accents composed."""
    if "://" in name:
        name = unquote(re.split("[?#]", name)[0])
    return normalize("NFC", re.split(r"[\\/]|^[A-Za-z]:", name)[-1])


class _Tree:
    """What lies below a folder: each folder is listed once, as 118,000 questions to a network disk take minutes."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.listings: dict[str, dict[str, str]] = {}

    def find(self, path: str) -> str | None:
        """A relative path as the disk spells it, or None if there is nothing."""
        found = ""
        for part in path.split("/"):
            if part in ("", "."):
                continue
            listing = self._listing(found)
            name = listing.get(part) or listing.get(normalize("NFC", part))
            if name is None:
                return None
            found = f"{found}/{name}" if found else name
        return found or None

    def _listing(self, place: str) -> dict[str, str]:
        """The names in a folder, by themselves and by their composed form; nothing if it is no folder."""
        if place not in self.listings:
            path = self.folder / place
            try:
                names = os.listdir(path) if os.path.isdir(path) else []
            except OSError as error:
                raise CaptionDataError(f"{path}: this folder cannot be read ({error.strerror})") from error
            self.listings[place] = {normalize("NFC", name): name for name in names} | {name: name for name in names}
        return self.listings[place]


def _usable(
    photos: list[tuple[int, list[str], Place]], where: str, limit: int | None
) -> tuple[list[tuple[int, list[str], Place]], int]:
    """Leaves out empty captions and photos without any, and cuts to the limit.

    Args:
        photos: (image_id, captions, where the photo is) of a whole split.
        where: The file, for messages.
        limit: How many to keep at most, or None.

    Returns:
        The photos kept, and how many had no caption.
    """
    image_id, times = Counter(photo[0] for photo in photos).most_common(1)[0] if photos else (None, 0)
    if times > 1:
        raise CaptionDataError(f"{where}: image_id {image_id} comes {times} times, each photo needs its own")
    filled = [(image_id, _filled(captions), place) for image_id, captions, place in photos]
    kept = [photo for photo in filled if photo[1]]
    if not kept:
        raise CaptionDataError(f"{where}: no captions, {len(photos)} photos")
    if len(kept) < len(photos):
        warnings.warn(f"{where}: photos without a caption, skipped: {len(photos) - len(kept)}", stacklevel=2)
    return kept[:limit], len(photos) - len(kept)


def _filled(captions: list[str]) -> list[str]:
    return [caption for caption in captions if caption.strip()]


def _by_split(folder: Path, pattern: re.Pattern) -> dict[str, list[Path]]:
    """Sorts the files of a folder whose name fits by the split that the name gives; none if there is no such folder."""
    found: dict[str, list[Path]] = {}
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        if match := pattern.fullmatch(name):
            found.setdefault("".join(match.groups()), []).append(folder / name)  # captions_val_2017 is val2017's
    return found


def _matching(files: Mapping[str, Any], split: str, folder: Path) -> str:
    """Picks the split asked for, which may go by another of its names, without its year if there is one year only."""
    called = "|".join(map(re.escape, split_names(split)))
    matches = [split] if split in files else [part for part in files if re.fullmatch(rf"({called})(\d{{4}})?", part)]
    if len(matches) != 1:
        problem = f"more than one split {split!r}, say which" if matches else f"no split {split!r}, there is"
        raise (CaptionDataError if matches else MissingSplit)(f"{folder}: {problem} {_listed(matches or files)}")
    return matches[0]


def _json(path: str | os.PathLike) -> Any:
    """Reads a JSON file."""
    try:
        return json.loads(Path(path).read_bytes())
    except json.JSONDecodeError as error:
        raise CaptionDataError(
            f"{path}, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})"
        ) from error
    except OSError as error:
        raise CaptionDataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # not UTF-8; a number of thousands of digits; brackets without end
        raise CaptionDataError(f"{path}: not a JSON text ({type(error).__name__})") from error


def _list(data: Any, key: str, path: str | os.PathLike) -> list:
    """Gives a list that a JSON file must have at its top."""
    value = data.get(key) if isinstance(data, dict) else None
    if not isinstance(value, list):
        raise CaptionDataError(f"{path}: no list {key!r} in this file, so it is no caption file")
    return value


def _parsed(entries: Sequence, where: str, parse: Callable[[dict], Parsed]) -> Iterator[Parsed]:
    """Parses the entries of a file one after the other, and says which one is wrong."""
    for number, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise TypeError(f"expected an object with keys, got {entry!r:.60}")
            yield parse(entry)
        except KeyError as error:
            raise CaptionDataError(f"{where}{number}: no {error.args[0]!r} in it (counted from 0)") from error
        except (TypeError, ValueError) as error:
            raise CaptionDataError(f"{where}{number}: {error} (counted from 0)") from error


def _id(value: Any) -> int:
    """Takes whole numbers and strings of digits, which some exports write, for ids."""
    if type(value) is int:
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
        return int(value)
    raise TypeError(f"an image id must be a whole number, got {value!r:.60}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r:.60}")
    return value


def _listed(names: Iterable[str]) -> str:
    """Lists names for a message: the first ten, or "nothing"."""
    names = list(names)
    return ", ".join(map(_shown, names[:10])) + (", ..." if len(names) > 10 else "") or "nothing"


def _shown(name: str) -> str:
    """A name out of a file as a message can show it: on one line, and not without end."""
    return f"{one_line(name):.200}"
