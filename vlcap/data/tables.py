"""Tables of captions: CSV and TSV with a header, JSON lines (metadata.jsonl, imagefolder), Flickr's token files.

    results.csv       image_name| comment_number| comment          Flickr30k; one row per caption
    captions.txt      image,caption                                 Flickr8k
    token.txt         1000268201.jpg#0<TAB>A child in a dress .    Flickr8k, Flickr30k; without a header
    metadata.jsonl    {"file_name": "1.jpg", "text": "a dog"}       Hugging Face's imagefolder

A column split names the splits, or the name of the file or of a folder does. Spaces around a caption are dropped.
"""

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .caption_files import MAX_BYTES, text_of, whole_id
from .caption_set import CaptionDataError
from .listed import Entry, Listed, Listing
from .names import listed, shown
from .splits import split_of_file, split_of_folder

METADATA = ("metadata.jsonl", "metadata.csv")  # of Hugging Face's imagefolder
TEXT_TABLE = re.compile(r"(?!.*lemma).*(captions?|token|results)\b.*", re.IGNORECASE)  # .txt files that may be tables
SUFFIXES = (".jsonl", ".csv", ".tsv", ".token", ".txt")
TOKEN_LINE = re.compile(r"([^\t]+)#\d+\t(.*)", re.DOTALL)
SPLIT_LIST = re.compile(r".*[._-](train|dev|val|test)Images\.txt")  # Flickr8k's: a name per line
HEAD = 65536  # bytes that are read to tell whether a file is a table
csv.field_size_limit(2**31 - 1)  # by default 128 KB: a long caption of another layout could be written and not read

# Names of columns, the best first; case, and spaces in place of _, don't matter.
PHOTO: tuple[str, ...] = ("file_name", "filename", "image", "image_name", "image_path", "image_file", "filepath")
PHOTO += ("file_path", "path", "photo", "file", "img", "image_id", "id")
CAPTION = ("captions", "caption", "comment", "text", "sentences", "sentence", "description", "raw")
SEVERAL = re.compile(r"(caption|comment|text|sentence|description)_?\d+")  # caption1, caption_2: one column each
IDS = ("image_id", "cocoid", "imgid", "img_id")
NUMBERED = re.compile(r"\s*\d+\s+(\S.*)", re.DOTALL)  # Flickr30k's results.csv lacks a delimiter in line 20001


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table, as they are written there."""

    photo: str
    captions: list[str]
    split: str | None
    image_id: str | None

    @classmethod
    def among(cls, names: list[str]) -> "Columns | None":
        """Finds the columns; None if there is no column with photos, or none with captions."""
        plain = {re.sub(r"[ -]", "_", name.strip().lower()): name for name in reversed(names)}
        photo = next((plain[name] for name in PHOTO if name in plain), None)
        several = [name for key, name in reversed(plain.items()) if SEVERAL.fullmatch(key)]
        captions = [plain[name] for name in CAPTION if name in plain][:1] or several
        if photo is None or not captions:
            return None
        image_id = next((plain[name] for name in IDS if name in plain and plain[name] != photo), None)
        return cls(photo, captions, plain.get("split"), image_id)


def find_tables(folder: Path, metadata: bool) -> Listed | None:
    """The tables in a folder, or else in the folders right below it, where imagefolder keeps one per split.

    Args:
        folder: The folder.
        metadata: Whether to look for imagefolder's metadata files, or for other tables.

    Raises:
        CaptionDataError: There are several, and nothing says that they are of different splits.
    """
    below = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    here = _tables_in(folder, metadata)
    files = here or [path for place in below for path in _tables_in(place, metadata)]
    if not files:
        return None
    if (here or not metadata) and len(files) > 1 and any(split_of_file(path, folder) is None for path in files):
        raise CaptionDataError(
            f"{folder}: only one of {listed(str(path.relative_to(folder)) for path in files)} can be read: "
            "name each by its split, or move the others elsewhere"
        )
    kind = "imagefolder" if metadata else f"table of captions ({files[0].suffix[1:]})"
    return Listed(kind, folder, files, lambda: _read_tables(folder, files, [path.name for path in below]))


def _tables_in(folder: Path, metadata: bool) -> list[Path]:
    if metadata:
        return [path for name in METADATA if (path := folder / name).is_file() and _is_table(path)][:1]
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES
        and path.name[0] != "."
        and path.name not in METADATA
        and (path.suffix.lower() != ".txt" or TEXT_TABLE.fullmatch(path.stem))
        and path.is_file()
        and _is_table(path)
    ]


def _is_table(path: Path) -> bool:
    """Whether a file begins as a table of captions does."""
    try:
        with open(path, "rb") as file:
            text = _decoded(file.read(HEAD), errors="replace")
    except OSError:
        return False
    line = next(_lines(text), "")
    if path.suffix.lower() == ".jsonl":
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        # A damaged metadata.jsonl is to be refused with its line.
        return path.name in METADATA or (isinstance(row, dict) and Columns.among(list(row)) is not None)
    return _header(line) is not None or TOKEN_LINE.fullmatch(line) is not None


def _header(line: str) -> tuple[str, list[str], Columns] | None:
    """Delimiter and columns of a table by its first line; None if it is no header."""
    for delimiter in ("\t", "|", ",", ";"):
        try:
            names: list[str] = next(_parser([line], delimiter), [])
        except csv.Error:
            continue
        if len(names) > 1 and (columns := Columns.among(names)):
            return delimiter, names, columns
    return None


def _lines(text: str) -> Iterator[str]:
    """The lines of a text, whatever system wrote it."""
    return io.StringIO(text, newline=None)


def _parser(lines: Any, delimiter: str) -> Any:
    """A reader of CSV. Quotes have a meaning only between commas or semicolons: Flickr30k has some that never close."""
    if delimiter in "\t|":
        return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    return csv.reader(lines, delimiter=delimiter, strict=True)


def _decoded(data: bytes, errors: str = "strict") -> str:
    """The text of a file: UTF-8, or UTF-16 as Excel writes it."""
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    return data.decode("utf-16" if wide else "utf-8-sig", errors=errors)


def read_text(path: Path) -> str:
    """The text of a file of captions.

    Raises:
        CaptionDataError: It cannot be read, is too large, or is not UTF-8.
    """
    try:
        if not path.is_file():  # a device or a pipe has no end
            raise CaptionDataError(f"{path}: cannot be read (not a file)")
        if path.stat().st_size > MAX_BYTES:
            raise CaptionDataError(f"{path}: too large, the limit is {MAX_BYTES // 1024**2} MB")
        data = path.read_bytes()
        return _decoded(data)
    except OSError as error:
        raise CaptionDataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeError as error:
        line = data[: getattr(error, "start", 0)].count(b"\n") + 1
        raise CaptionDataError(f"{path}, line {line}: not UTF-8: save the file as UTF-8") from error


def _read_tables(folder: Path, files: list[Path], below: list[str]) -> Listing:
    """Reads tables into a listing. `below` has the names of the folders right below the folder, for photos."""
    found = Listing(files, places=list(dict.fromkeys(["", "images", *below])))
    for path in files:
        place = path.parent.relative_to(folder).as_posix()
        split = split_of_file(path, folder)
        lists = _split_lists(path.parent)
        left_out: set[str] = set()
        for line, columns, row in _rows(path, found):
            where = f"{path}, line {line}"
            try:
                name = text_of(row[columns.photo]).strip()
                if lists and name not in lists:
                    left_out.add(name)
                    continue
                entry = _entry(columns, row, name, lists.get(name) or split, place)
            except (KeyError, TypeError) as error:
                found.problems.append(f"{where}: {f'no {error}' if isinstance(error, KeyError) else error}")
                continue
            found.add(entry, where)
        if left_out:
            found.remarks.append(
                f"{path}: left out {len(left_out)} photos that none of the files of the splits "
                f"({listed(sorted(each.name for each in _split_list_files(path.parent)))}) lists, "
                f"the first is {shown(min(left_out))}"
            )
    return found


def _entry(columns: Columns, row: Mapping[str, Any], name: str, split: str | None, place: str) -> Entry:
    """A row of a table. The name of its photo counts from the folder of the table, which is `place`.

    Raises:
        KeyError: The row has no caption.
        TypeError: A value has another type.
    """
    captions = [text for column in columns.captions for text in _captions(row[column])]
    said = row.get(columns.split) if columns.split else None
    said = text_of(said).strip().lower() if said else ""
    said = "train" if said == "restval" else said
    try:
        image_id = whole_id(row.get(columns.image_id)) if columns.image_id else None
    except TypeError:
        image_id = None  # a name of another kind
    return Entry(
        name if place == "." or not name else f"{place}/{name}",
        captions,
        said or split or split_of_folder(name),
        image_id,
    )


def _captions(value: Any) -> list[str]:
    """The captions in a cell: a text, or a list of texts, which a CSV file may hold as JSON."""
    if value is None:
        return []
    if isinstance(value, str) and value.startswith('["'):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    return [text_of(each).strip() for each in (value if isinstance(value, list) else [value])]


def _rows(path: Path, found: Listing) -> Iterator[tuple[int, Columns, Mapping[str, Any]]]:
    """The rows of a table, each with its line and the columns to use. Faults go into the listing."""
    try:
        text = read_text(path)
    except CaptionDataError as error:
        found.problems.append(str(error))
        return
    first = next(_lines(text), "")
    if path.suffix.lower() == ".jsonl":
        yield from _json_rows(path, text, found)
    elif header := _header(first):
        yield from _csv_rows(path, text, header, found)
    else:
        columns = Columns("photo", ["caption"], None, None)
        for number, line in enumerate(_lines(text), start=1):
            if match := TOKEN_LINE.fullmatch(line.rstrip("\r\n")):
                yield number, columns, {"photo": match[1], "caption": match[2]}
            elif line.strip():
                found.problems.append(f"{path}, line {number}: expected photo.jpg#0, a tab and a caption")


def _json_rows(path: Path, text: str, found: Listing) -> Iterator[tuple[int, Columns, Mapping[str, Any]]]:
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as fault:
            reason = fault.msg if isinstance(fault, json.JSONDecodeError) else type(fault).__name__
            found.problems.append(f"{path}, line {number}: not valid JSON ({reason})")
            continue
        columns = Columns.among(list(row)) if isinstance(row, dict) else None
        if not isinstance(row, dict) or columns is None:
            there = listed(row) if isinstance(row, dict) else f"{row!r:.60}"
            found.problems.append(
                f"{path}, line {number}: needs the keys file_name and text (or caption, captions), there is {there}"
            )
            continue
        yield number, columns, row


def _csv_rows(
    path: Path, text: str, header: tuple[str, list[str], Columns], found: Listing
) -> Iterator[tuple[int, Columns, Mapping[str, Any]]]:
    delimiter, names, columns = header
    rows = _parser(io.StringIO(text, newline=""), delimiter)
    next(rows)
    last = names[-1] in columns.captions
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as fault:
            found.problems.append(f"{path}, line {line}: not valid CSV ({fault})")
            continue
        if row is None:
            return
        if not any(cell.strip() for cell in row):
            continue
        if last and len(row) > len(names):  # a delimiter in a caption that is not quoted
            row = [*row[: len(names) - 1], delimiter.join(row[len(names) - 1 :])]
        if last and len(row) == len(names) - 1 >= 2 and (match := NUMBERED.fullmatch(row[-1])):
            row = [*row[:-1], "", match[1]]
            found.remarks.append(f"{path}, line {line}: a missing {delimiter} was put before the caption")
        if len(row) != len(names):
            found.problems.append(f"{path}, line {line}: {len(row)} columns where the header has {len(names)}")
            continue
        cells = (_unquoted(cell) for cell in row) if delimiter == "\t" else row
        yield line, columns, dict(zip(names, cells, strict=True))


def _unquoted(cell: str) -> str:
    """A cell without the quotes that spreadsheets put around some cells of TSV files."""
    inner = cell[1:-1]
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else cell


def _split_list_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if SPLIT_LIST.fullmatch(path.name) and path.is_file()]


def _split_lists(folder: Path) -> dict[str, str]:
    """The split of each photo by Flickr8k's lists, Flickr_8k.trainImages.txt and so on. Empty if there are none."""
    found: dict[str, str] = {}
    for path in _split_list_files(folder):
        match = SPLIT_LIST.fullmatch(path.name)
        assert match
        for name in read_text(path).split("\n"):
            if known := found.get(name.strip()):
                raise CaptionDataError(f"{path}: {shown(name.strip())} is also in the list of {known}")
            if name.strip():
                found[name.strip()] = match[1]
    return found
