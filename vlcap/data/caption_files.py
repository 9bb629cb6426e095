"""JSON files of captions: COCO's annotation and result files, and the entries of any such file.

`vlcap score` reads both kinds through `read_coco_captions` and `read_coco_results`.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..files.json_file import load_json
from ..files.writing import replacing
from .caption_set import CaptionDataError

MAX_BYTES = 2 * 1024**3  # of a caption file; COCO's largest has 66 MB, Karpathy's 144 MB

Id = TypeVar("Id", int, int | str)
Parsed = TypeVar("Parsed")


def read_coco_captions(path: str | os.PathLike) -> dict[int, list[str]]:
    """Reads the references of a COCO caption annotation file.

    Returns:
        Captions by image_id, in the order of the file, without empty ones.

    Raises:
        CaptionDataError: The file is missing, damaged, not an annotation file, or without captions.
    """
    found = captions_by_image(read_file(path, pipes=True), path, whole_id)
    references = {image_id: kept for image_id, captions in found.items() if (kept := filled(captions))}
    if not references:
        raise CaptionDataError(f"{path}: no captions in this file")
    return references


def read_coco_results(path: str | os.PathLike) -> dict[int, str]:
    """Reads predictions from a COCO result file, [{"image_id": 1, "caption": "a dog"}, ...].

    Raises:
        CaptionDataError: The file is missing, damaged, not a result file, or has two captions for one image.
    """
    data = read_file(path, pipes=True)
    if not isinstance(data, list):
        raise CaptionDataError(f"{path}: a result file is a list of image_id and caption, not a {type(data).__name__}")
    results: dict[int, str] = {}
    for image_id, caption in parsed(data, f"{path}: entry ", annotation):
        if image_id in results:
            raise CaptionDataError(f"{path}: image_id {image_id} occurs twice, a result file has one caption per image")
        results[image_id] = caption
    return results


def write_coco_results(path: str | os.PathLike, predictions: Mapping[int, str]) -> None:
    """Writes predictions as a COCO result file, one entry per line. A file is replaced whole or not at all."""
    path = Path(path)
    entries = [{"image_id": int(image_id), "caption": caption} for image_id, caption in predictions.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write("[" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "]\n")


def read_file(path: str | os.PathLike, pipes: bool = False) -> Any:
    """Reads the JSON of a caption file.

    Raises:
        CaptionDataError: The file is missing, damaged, or too large.
    """
    return load_json(path, MAX_BYTES, pipes=pipes, error=CaptionDataError)


def captions_by_image(data: Any, path: str | os.PathLike, parse_id: Callable[[Any], Id]) -> dict[Id, list[str]]:
    """Captions of a COCO annotation file by image_id, empty ones included."""

    def parse(entry: dict) -> tuple[Id, str]:
        return parse_id(entry["image_id"]), text_of(entry["caption"])

    references: dict[Id, list[str]] = {}
    for image_id, caption in parsed(list_at(data, "annotations", path), f"{path}: annotations ", parse):
        references.setdefault(image_id, []).append(caption)
    return references


def annotation(entry: dict) -> tuple[int, str]:
    """image_id and caption of an entry of a COCO result file."""
    return whole_id(entry["image_id"]), text_of(entry["caption"])


def filled(captions: list[str]) -> list[str]:
    """The captions that are not blank."""
    return [caption for caption in captions if caption.strip()]


def list_at(data: Any, key: str, path: str | os.PathLike) -> list:
    """The list under a key at the top of a caption file."""
    value = data.get(key) if isinstance(data, dict) else None
    if not isinstance(value, list):
        raise CaptionDataError(f"{path}: no list {key!r} in this file, so it is not a caption file")
    return value


def parsed(entries: Sequence, where: str, parse: Callable[[dict], Parsed]) -> Iterator[Parsed]:
    """Parses the entries of a file one by one. An error names the entry that is wrong."""
    for number, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise TypeError(f"expected an object with keys, got {entry!r:.60}")
            yield parse(entry)
        except KeyError as error:
            raise CaptionDataError(f"{where}{number}: no {error.args[0]!r} in it (counted from 0)") from error
        except (TypeError, ValueError) as error:
            raise CaptionDataError(f"{where}{number}: {error} (counted from 0)") from error


def whole_id(value: Any) -> int:
    """An id: a whole number, or a string of digits, which some programs write."""
    if type(value) is int:
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
        return int(value)
    raise TypeError(f"an image id must be a whole number, got {value!r:.60}")


def known_id(value: Any) -> int | str:
    """An id as labeling tools write them: as `whole_id`, or any other text."""
    return value if isinstance(value, str) and value and not value.isdigit() else whole_id(value)


def text_of(value: Any) -> str:
    """A value that must be a text."""
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r:.60}")
    return value
