"""Rows of a file of captions, as JSON Lines, CSV or parquet. One row per caption.

| column | content |
| --- | --- |
| image | the photo: relative to the file's folder if it lies in it or below, otherwise the whole path |
| caption | the caption; empty if there is none |
| score | mean log-probability of its pieces; empty for an unreadable photo |
| budget | side of the compressed grid that it was read from; empty for an unreadable photo |
| problem | why a photo could not be read; empty otherwise |

A row with a score and without a caption is a photo whose captions all score below `--min-score`.
"""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import VlcapError, reason

COLUMNS = ("image", "caption", "score", "budget", "problem")
FORMULA = "=+-@\t\r"  # what a spreadsheet starts a formula with
_RISK = "(?=[\\s\"']*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\\t\\r])"  # the same, also behind quotes and in full width
_RISKY = re.compile(f"(^|[;\\t\\r\\n]){_RISK}")
_MARKED = re.compile(f"(^|[;\\t\\r\\n])'{_RISK}")


class TableError(VlcapError, ValueError):
    """A file of captions cannot be read or written. The message names it and says what to do."""


@dataclass(frozen=True)
class Row:
    """One caption of a photo, or the reason why it has none. The columns are those of the module."""

    image: str
    caption: str = ""
    score: float | None = None
    budget: int | None = None
    problem: str = ""


def name_in(folder: Path, photo: Path) -> str:
    """A photo's name in a file of captions that lies in `folder`.

    Bytes that are not UTF-8 become \\xff, because none of the formats can hold them. A relative name that a spreadsheet
    would run as a formula gets ./ in front, which names the same file.
    """
    path, place = Path(os.path.abspath(photo)), Path(os.path.abspath(folder))
    name = path.relative_to(place).as_posix() if path.is_relative_to(place) else str(path)
    name = os.fsencode(name).decode("utf-8", errors="backslashreplace")
    return f"./{name}" if name.startswith(tuple(FORMULA)) else name


def as_cell(text: str) -> str:
    """A text with a ' where a spreadsheet would begin a formula, also if it splits cells at semicolons."""
    return _RISKY.sub(r"\1'", text)


def of_cell(cell: str) -> str:
    """The text of which `as_cell` made a cell."""
    return _MARKED.sub(r"\1", cell)


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        read: Content of a file -> its rows, as (image, caption). Raises ValueError, which says what is wrong and where.
        extend: Content of a file, or None for a new one, and rows -> the content with these rows at its end. What was
            there stays, byte for byte, in JSON Lines and CSV, and value for value in parquet.
    """

    read: Callable[[bytes], list[tuple[str, str]]]
    extend: Callable[[bytes | None, Iterable[Row]], bytes]


def format_of(path: Path) -> Format:
    """The format that a file's suffix asks for.

    Raises:
        TableError: It is none of those known.
    """
    if path.suffix.lower() not in FORMATS:
        raise TableError(f"{path}: the name of a file of captions must end in {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def _ended(content: bytes | None) -> bytes:
    """Lines whose last one ends."""
    content = content or b""
    return content if not content or content.endswith(b"\n") else content + b"\n"


def _pair(row: Any, where: str) -> tuple[str, str]:
    """Image and caption of a row.

    Raises:
        TableError: They are missing, or no texts.
    """
    if isinstance(row, dict) and isinstance(row.get("image"), str) and isinstance(row.get("caption"), str):
        return row["image"], row["caption"]
    raise TableError(f"{where}: a row needs the texts image and caption")


def _read_lines(content: bytes) -> list[tuple[str, str]]:
    lines = content.decode("utf-8-sig").split("\n")
    return [_pair(json.loads(line), f"line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _extend_lines(content: bytes | None, rows: Iterable[Row]) -> bytes:
    return _ended(content) + "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows).encode()


def _read_csv(content: bytes) -> list[tuple[str, str]]:
    reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise TableError(f"the first line must be {','.join(COLUMNS)}")
    pairs = (_pair(row, f"line {reader.line_num}") for row in reader)
    return [(image, of_cell(caption)) for image, caption in pairs]


def _extend_csv(content: bytes | None, rows: Iterable[Row]) -> bytes:
    text = io.StringIO(newline="")
    # All cells are quoted: the first one stays whole where a spreadsheet splits at semicolons.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    if content is None:
        writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(asdict(replace(row, caption=as_cell(row.caption), problem=as_cell(row.problem))).values())
    return _ended(content) + text.getvalue().encode()


def _schema() -> Any:
    import pyarrow

    string, number, whole = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
    return pyarrow.schema(list(zip(COLUMNS, (string, string, number, whole, string), strict=True)))


def _table(content: bytes) -> Any:
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(io.BytesIO(content)).read()  # read_table imports pandas
    if not table.schema.equals(_schema()):
        raise TableError(f"the columns must be {', '.join(COLUMNS)}, with the types that vlcap writes")
    return table


def _read_parquet(content: bytes) -> list[tuple[str, str]]:
    table = _table(content)
    pairs = zip(table["image"].to_pylist(), table["caption"].to_pylist(), strict=True)
    return [_pair({"image": image, "caption": caption}, "the table") for image, caption in pairs]


def _extend_parquet(content: bytes | None, rows: Iterable[Row]) -> bytes:
    import pyarrow.json
    import pyarrow.parquet

    tables = [] if content is None else [_table(content)]
    if lines := _extend_lines(None, rows):  # by way of JSON: building arrays from Python's values imports pandas
        options = pyarrow.json.ParseOptions(explicit_schema=_schema())
        reading = pyarrow.json.ReadOptions(use_threads=False, block_size=len(lines) + 1)
        tables.append(pyarrow.json.read_json(io.BytesIO(lines), reading, options))
    table = pyarrow.concat_tables(tables or [_schema().empty_table()]).combine_chunks()
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


FORMATS = {
    ".jsonl": Format(_read_lines, _extend_lines),
    ".csv": Format(_read_csv, _extend_csv),
    ".parquet": Format(_read_parquet, _extend_parquet),
}


def read_rows(path: Path, content: bytes) -> list[tuple[str, str]]:
    """The rows of a file of captions, as (image, caption).

    Args:
        path: The file, for its suffix and for messages.
        content: What it holds.

    Raises:
        TableError: It is no such file.
    """
    try:
        return format_of(path).read(content)
    except Exception as error:  # pyarrow, csv, json and Unicode each raise their own
        raise TableError(
            f"{path}: not a file of captions as vlcap writes it ({reason(error, 200)}): choose another name"
        ) from error


def rendered(path: Path, content: bytes | None, rows: Sequence[Row]) -> bytes:
    """The content of a file of captions with rows added at its end; None for a new file."""
    return format_of(path).extend(content, rows)
