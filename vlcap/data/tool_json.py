"""COCO JSON under the names that labeling tools give it: result.json, labels.json, _annotations.coco.json.

Their ids may be texts, and their file names absolute paths, addresses, or in folders of their own.
"""

import mmap
from pathlib import Path

from .caption_set import CaptionDataError
from .finding import is_image_name
from .layouts import COCO_FILE, coco_photos
from .listed import Entry, Listed, Listing
from .names import listed
from .splits import split_of_file, split_of_folder

KEYS = (b'"images"', b'"annotations"', b'"caption"', b'"file_name"')


def find_labeling(folder: Path) -> Listed | None:
    """The COCO files with captions in a folder, in annotations/ or in the folders right below it.

    Raises:
        CaptionDataError: There are several, and nothing says that they are of different splits.
    """
    below = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    files = _files_in(folder) or [path for place in below for path in _files_in(place)]
    if len(files) > 1 and any(split_of_file(path, folder) is None for path in files):
        raise CaptionDataError(
            f"{folder}: only one of {listed(str(path.relative_to(folder)) for path in files)} can be read: "
            "name each by its split, or move the others elsewhere"
        )
    return Listed("COCO JSON", folder, files, lambda: _read_labeling(folder, files, below)) if files else None


def _files_in(folder: Path) -> list[Path]:
    """The COCO files with captions in a folder. A .json file of the same name as a photo is about that photo."""
    paths = sorted(folder.iterdir())
    photos = {path.stem for path in paths if is_image_name(path.name)}
    return [
        path
        for path in paths
        if path.suffix == ".json" and path.stem not in photos and not COCO_FILE.fullmatch(path.name) and _is_coco(path)
    ]


def _is_coco(path: Path) -> bool:
    """Whether a file holds the keys of captioned photos in COCO's layout."""
    try:
        if not path.is_file():  # opening a pipe could wait forever
            return False
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return all(text.find(key) >= 0 for key in KEYS)
    except (OSError, ValueError):  # ValueError: the file is empty
        return False


def _read_labeling(folder: Path, files: list[Path], below: list[Path]) -> Listing:
    found = Listing(files, places=list(dict.fromkeys(["", "images", "data", *(path.name for path in below)])))
    for path in files:
        place = path.parent.relative_to(folder).as_posix()
        split = split_of_file(path, folder)
        try:
            photos = coco_photos(path)
        except CaptionDataError as error:
            found.problems.append(str(error))
            continue
        for number, (image_id, captions, name) in enumerate(photos):
            where = f"{path}: images {number}"
            # Roboflow keeps a split's photos beside its file; annotations/ never holds photos.
            beside = place not in (".", "annotations")
            entry = Entry(f"{place}/{name}" if beside else name, captions, split or split_of_folder(name), image_id)
            found.add(entry, where)
    return found
