"""Damaged folders as people bring them: text files, metadata.jsonl, tables, archives, labeling tools' JSON.

Each is read, surveyed and, if it can be read, written in another layout.
"""

import io
import json
import random
import shutil
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlcap.data.caption_set import CaptionDataError
from vlcap.data.converting import WRITERS, convert
from vlcap.data.survey import read_all, survey

from . import captions, mutate
from .captions import COUNT, photos

NAMES = (
    "{}.png",
    "train/{}.png",
    "../{}.png",
    "/etc/{}.png",
    "C:\\x\\{}.png",
    "a\\{}.png",
    "{}",
    "",
    "\0{}.png",
    "\u202e{}.png",
    "x" * 300 + "{}.png",
    "{}.png ",
    "'{}.png'",
    '"{}.png"',
)
TEXTS = (
    "a dog",
    "",
    " ",
    '"',
    '["a", "b"]',
    '["a"',
    "[" * 3000,
    "a, b",
    "a | b",
    "line\nbreak",
    "\u2028",
    "\0",
    "\ud800",
    "🦆",
    "=cmd()",
    "x" * 100_000,
)
SPLITS = ("train", "val", "test", "", "restval", "x", "\n", "VAL", "val2014", "../x")
IDS: tuple[Any, ...] = (0, 1, "1", "x", -1, 2**70, None, 1.5, "", [1])


def _photos(rng: random.Random, folder: Path) -> None:
    place = folder / rng.choice((".", ".", "images", "train", "data"))
    place.mkdir(exist_ok=True)
    for number, data in enumerate(photos()):
        if rng.random() < 0.05:
            continue
        path = place / f"{number}.png"
        match rng.randrange(40):
            case 0:
                path.mkdir()
            case 1:
                path.symlink_to(rng.choice(("/dev/zero", "/etc/passwd", "nowhere", ".")))
            case 2:
                path.write_bytes(mutate.bytes_of(rng, data))
            case _:
                path.write_bytes(data)


def _row(rng: random.Random, number: int) -> tuple[str, str, str, Any]:
    """Name, caption, split and id of a photo, mostly usable."""
    odd = rng.random() < 0.1
    return (
        rng.choice(NAMES if odd else NAMES[:1]).format(number),
        rng.choice(TEXTS if rng.random() < 0.1 else TEXTS[:1]),
        rng.choice(SPLITS if odd else SPLITS[:2]),
        rng.choice(IDS) if odd else number,
    )


def _text(rng: random.Random, text: str) -> bytes:
    """The bytes of a text, sometimes damaged."""
    data = text.encode(errors="surrogatepass")
    match rng.randrange(8):
        case 0 | 1:
            return mutate.bytes_of(rng, data)
        case 2:
            return text.encode(rng.choice(("utf-16", "utf-8-sig", "latin-1", "utf-32")), errors="replace")
        case 3:
            return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"\0\n")))
    return data


def make_sidecars(rng: random.Random, folder: Path) -> Path:
    _photos(rng, folder)
    for place in [folder, *(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())]:
        for number in range(COUNT):
            path = place / f"{number}{rng.choice(('.txt', '.txt', '.caption', '.TXT'))}"
            match rng.randrange(20):
                case 0:
                    path.symlink_to(rng.choice(("/dev/zero", "nowhere", ".")))
                case 1:
                    path.mkdir()
                case 2:
                    pass
                case _:
                    path.write_bytes(_text(rng, "\n".join(_row(rng, number)[1] for _ in range(rng.randrange(3)))))
    return folder


def make_metadata(rng: random.Random, folder: Path) -> Path:
    _photos(rng, folder)
    rows = []
    for number in range(COUNT):
        name, text, split, image_id = _row(rng, number)
        row = {"file_name": name, rng.choice(("text", "caption")): text, "image_id": image_id, "split": split}
        if rng.random() < 0.3:
            row["captions"] = [text, "another"]
        rows.append(mutate.json_of(rng, row) if rng.random() < 0.1 else row)
    path = folder / rng.choice(("metadata.jsonl", "train/metadata.jsonl", "captions.jsonl"))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(_text(rng, "\n".join(json.dumps(row, ensure_ascii=rng.random() < 0.9) for row in rows)))
    return folder


def make_tables(rng: random.Random, folder: Path) -> Path:
    _photos(rng, folder)
    mark = rng.choice((",", ",", "\t", "| ", ";"))
    header = rng.choice(
        (["image", "caption"], ["image_name", "comment_number", "comment"], ["file", "caption", "split"])
    )
    header = [*header, *rng.choice(([], ["image_id"], ["caption_2"], ["caption"]))]
    lines = [mark.join(header)]
    token = rng.random() < 0.2
    for number in range(COUNT):
        name, text, split, image_id = _row(rng, number)
        if token:
            lines.append(f"{name}#{number}\t{text}")
            continue
        values = {"comment_number": number, "split": split, "image_id": image_id}
        cells = [str(values.get(key, text if "c" in key else name)) for key in header]
        if mark in (",", ";") and rng.random() < 0.8:
            cells = [cell if cell.isalnum() else '"' + cell.replace('"', '""') + '"' for cell in cells]
        lines.append(mark.join(cells[: len(cells) - (rng.random() < 0.05)]))
    names = ("captions.csv", "results.csv", "captions.txt", "val.tsv", "metadata.csv", "token.txt")
    content = "\n".join(lines[1:] if token else lines)
    (folder / ("token.txt" if token else rng.choice(names))).write_bytes(_text(rng, content))
    if rng.random() < 0.2:
        listing = "\n".join(rng.choice(NAMES[:2]).format(number) for number in range(COUNT))
        (folder / "Flickr_8k.trainImages.txt").write_bytes(_text(rng, listing))
    return folder


def make_shards(rng: random.Random, folder: Path) -> Path:
    for shard in range(rng.choice((1, 1, 2))):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=rng.choice(("w", "w", "w", "w:gz"))) as archive:
            for number, data in enumerate(photos()):
                _, text, _, image_id = _row(rng, number)
                about = {"captions": [text, "another"], "image_id": image_id, "caption": text}
                texts = (
                    _text(rng, text),
                    mutate.json_text(rng, about) if rng.random() < 0.3 else json.dumps(about).encode(),
                )
                for ending, content in zip(("png", "txt", "json"), (data, *texts), strict=True):
                    if rng.random() < 0.15:
                        continue
                    entry = tarfile.TarInfo(rng.choice(("", "", "", "a/", "../", "/")) + f"{number}.{ending}")
                    entry.size = len(content)
                    match rng.randrange(30):
                        case 0:
                            entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, "/etc/passwd", 0
                        case 1:
                            entry.name = rng.choice(
                                ("\0", "", ".", "x" * 300, "\u202e.png", f"{number}.PNG", "a.b.jpg")
                            )
                        case 2:
                            entry.type = rng.choice((tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE))
                    archive.addfile(entry, io.BytesIO(content))
        data = file.getvalue()
        if rng.random() < 0.5:
            start = rng.choice((0, 0, 512, 1024, 1536))  # headers begin at multiples of 512
            data = data[:start] + mutate.bytes_of(rng, data[start:])
        (folder / rng.choice((f"{shard:05d}.tar", f"val-{shard}.tar", f"train-{shard}.tar"))).write_bytes(data)
    return folder


def make_labeling(rng: random.Random, folder: Path) -> Path:
    _photos(rng, folder)
    content = captions.coco(rng)
    if rng.random() < 0.5:
        for entry in content["images"]:
            entry["id"] = f"id {entry['id']}"
        for entry in content["annotations"]:
            entry["image_id"] = f"id {entry['image_id']}"
    if rng.random() < 0.2:
        content["images"][0]["file_name"] = rng.choice(NAMES).format(0)
    path = folder / rng.choice(("result.json", "labels_val.json", "train/_annotations.coco.json", "annotations/x.json"))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(mutate.json_text(rng, content))
    return folder


def read(folder: Path) -> None:
    """Reads a folder as training, `vlcap data` and `vlcap data --to` do. A refused folder is surveyed, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            sets = read_all(folder)
        except CaptionDataError:
            found = survey(folder)
            assert found.problems and all("\n" not in problem for problem in found.problems)
            raise
        for captions_of in sets:
            assert len(set(captions_of.image_ids)) == len(captions_of) and all(map(all, captions_of.captions))
            captions_of.identity()
        found = survey(folder, check_photos=True)
        assert {each.split: each.photos for each in found.splits} == {each.split: len(each) for each in sets}
        assert all("\n" not in line and len(line) < 2000 for line in (*found.problems, *found.remarks, *found.others))
        _write_anew(sets, folder)


def _write_anew(sets: list, folder: Path) -> None:
    number = sum(map(len, sets)) + sum(len(each.name) + len(str(each.captions)) for each in sets)
    to = list(WRITERS)[number % len(WRITERS)]
    if to == "parquet":  # its reader fills a cache on the disk; the reader of parquet has a fuzzer of its own
        to = "csv"
    out = folder.parent / "out"
    flat: Callable[[list], list] = lambda found: sorted(  # noqa: E731
        (each.split, each.content(i)) for each in found for i in range(len(each))
    )
    try:
        convert(sets, to, out)
        assert flat(read_all(out)) == flat(sets), to
    finally:
        shutil.rmtree(out, ignore_errors=True)
