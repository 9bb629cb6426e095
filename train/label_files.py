"""Files of labeled photos: which belong to a split, their columns, the names of their classes.

`labels.py` reads them whole, `streaming.py` as a stream.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlcap.data.files import load_files, readable, split_names
from vlcap.errors import VlcapError


class LabelError(VlcapError, ValueError):
    """Labeled photos that can't be used: where, what is wrong, what is expected."""


def split_files(folder: Path, split: str) -> list[str]:
    """The parquet files of a split, or else its webdataset archives."""
    for name in split_names(split):
        for ending in ("parquet", "tar"):
            if files := sorted(map(str, folder.glob(f"{name}[.-]*{ending}"))):
                return files
    return []


def load_labeled_files(files: list[str], split: str = "train", streaming: bool = False) -> Any:
    """A split's parquet files or webdataset archives as a Hugging Face data set.

    Raises:
        LabelError: The files can't be read, or they number their classes differently.
    """
    kind = "webdataset" if files[0].endswith(".tar") else "parquet"
    with readable(files[0], kind, LabelError):
        if kind == "parquet":
            _check_class_numbers(files)
        return load_files(files, kind, split, streaming)


def image_and_label(columns: Mapping[str, Any], source: str) -> tuple[str, str]:
    """Names of the image column and the label column: image and label, or webdataset's endings.

    Raises:
        LabelError: One of them is missing.
    """
    images = [name for name in ("image", "jpg", "jpeg", "png", "webp") if name in columns]
    labels = [name for name in ("label", "cls", "json") if name in columns]
    if images and labels:
        return images[0], labels[0]
    missing = ("" if images else "image") + ("" if images or labels else ", ") + ("" if labels else "label")
    raise LabelError(f"{source} has no column {missing}; it has {', '.join(columns)}")


def class_names(feature: Any, folder: Path | None, number: int | None = None) -> list[str] | None:
    """Class names: the feature's own, else the lines of `folder`/classes.txt, else numbers; None if unknown."""
    if names := getattr(feature, "names", None):
        return names
    if folder and (folder / "classes.txt").is_file():
        try:
            return (folder / "classes.txt").read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise LabelError(f"{folder / 'classes.txt'}: expected UTF-8 text with one class per line") from None
    return None if number is None else [str(i) for i in range(number)]


def _check_class_numbers(files: list[str]) -> None:
    """datasets uses the first file's class names for all files: the others' numbers must mean the same."""
    if len(files) == 1:
        return
    import datasets
    import pyarrow.parquet

    def names(file: str) -> list[str] | None:
        features = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(file))
        return getattr(features.get("label"), "names", None)

    first = names(files[0])
    if other := next((file for file in files[1:] if names(file) != first), None):
        raise LabelError(f"{other}: its classes are not numbered as those of {files[0]}: write both with one list")
