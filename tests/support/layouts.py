"""Captioned drawings written in every layout, by code of the tests' own: what the readers and writers are held to."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.support import drawings

SPLITS = {"train": 40, "val": 5, "test": 5}  # photos


def numbers() -> Iterator[tuple[str, int]]:
    """Split and number of each photo."""
    number = 0
    for split, count in SPLITS.items():
        for _ in range(count):
            number += 1
            yield split, number


def png(number: int) -> bytes:
    file = io.BytesIO()
    drawings.draw(number).save(file, format="PNG")
    return file.getvalue()


def say(number: int) -> list[str]:
    """Captions without spaces around them and of one line each, which every layout keeps."""
    return [f"{text} No. {number}, {place}" for place, text in enumerate(drawings.describe(number))]


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(rows: Iterable[str]) -> str:
    return "".join(f"{row}\n" for row in rows)


def photos(folder: Path, place: str = "{split}") -> None:
    for split, number in numbers():
        put(folder / place.format(split=split) / f"{number:04d}.png", png(number))


def sidecars(folder: Path, suffix: str = ".txt") -> Path:
    photos(folder)
    for split, number in numbers():
        put(folder / split / f"{number:04d}{suffix}", lines(say(number)))
    return folder


def caption_files(folder: Path) -> Path:
    return sidecars(folder, suffix=".caption")


def imagefolder(folder: Path) -> Path:
    photos(folder)
    for split in SPLITS:
        rows = [{"file_name": f"{n:04d}.png", "text": say(n)} for part, n in numbers() if part == split]
        put(folder / split / "metadata.jsonl", lines(map(json.dumps, rows)))
    return folder


def imagefolder_in_one_file(folder: Path) -> Path:
    photos(folder)
    rows = [{"file_name": f"{split}/{n:04d}.png", "captions": say(n), "image_id": n} for split, n in numbers()]
    put(folder / "metadata.jsonl", lines(map(json.dumps, rows)))
    return folder


def csv_rows(delimiter: str, header: list[str], row: Callable[[str, int, int, str], list], **options) -> str:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, **options)
    writer.writerow(header)
    for split, n in numbers():
        for place, text in enumerate(say(n)):
            writer.writerow(row(split, n, place, text))
    return file.getvalue()


def csv_with_splits(folder: Path) -> Path:
    """Captions with commas, quoted, and a column that says the split."""
    photos(folder, "images")
    header = ["image", "caption", "split"]
    put(folder / "captions.csv", csv_rows(",", header, lambda split, n, place, text: [f"{n:04d}.png", text, split]))
    return folder


def csv_of_one_row_each(folder: Path) -> Path:
    """Several columns of captions, as spreadsheets have them, in UTF-16 as Excel writes them."""
    photos(folder, "photos")
    rows = ["Filename\tCaption 1\tCaption 2\tCaption 3\tSplit"]
    rows += ["\t".join([f"{n:04d}.png", *say(n), split]) for split, n in numbers()]
    put(folder / "captions.tsv", lines(rows).encode("utf-16"))
    return folder


def tsv_by_file(folder: Path) -> Path:
    photos(folder, "images")
    for split in SPLITS:
        rows = [f"{n:04d}.png\t{text}" for part, n in numbers() if part == split for text in say(n)]
        put(folder / f"{split}.tsv", lines(["filename\tdescription", *rows]))
    return folder


def flickr30k(folder: Path) -> Path:
    """results.csv, with the row that lacks a delimiter; splits by the folders of the photos."""
    photos(folder, "flickr30k_images/{split}")
    rows = [
        f"flickr30k_images/{split}/{n:04d}.png| {place}{' ' if (n, place) == (7, 2) else '|'} {text}"
        for split, n in numbers()
        for place, text in enumerate(say(n))
    ]
    put(folder / "results.csv", lines(["image_name| comment_number| comment", *rows]))
    return folder


def flickr8k(folder: Path) -> Path:
    """Flickr8k's token file and lists of splits, in one folder, and the photos in another."""
    photos(folder, "Flicker8k_Dataset")
    rows = [f"{n:04d}.png#{place}\t{text}" for _, n in numbers() for place, text in enumerate(say(n))]
    put(folder / "Flickr8k_text/Flickr8k.token.txt", lines(rows))
    put(folder / "Flickr8k_text/Flickr8k.lemma.token.txt", lines(rows))
    for split in SPLITS:
        name = f"Flickr8k_text/Flickr_8k.{'dev' if split == 'val' else split}Images.txt"
        put(folder / name, lines(f"{n:04d}.png" for part, n in numbers() if part == split))
    return folder


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def webdataset(folder: Path, json_only: bool = False) -> Path:
    """Archives by split, with a .txt of several lines, or with captions in a .json."""
    folder.mkdir(parents=True)
    for split in SPLITS:
        members = [n for part, n in numbers() if part == split]
        for shard, start in enumerate(range(0, len(members), 20)):
            with tarfile.open(folder / f"set-{split}-{shard:05d}.tar", "w") as archive:
                for n in members[start : start + 20]:
                    add(archive, f"{n:04d}.png", png(n))
                    about = {"image_id": n, "captions": say(n)} if json_only else {"width": 64}
                    add(archive, f"{n:04d}.json", json.dumps(about).encode())
                    if not json_only:
                        add(archive, f"{n:04d}.txt", lines(say(n)).encode())
            put(folder / f"set-{split}-{shard:05d}.parquet", b"img2dataset's, without photos")
    return folder


def webdataset_json(folder: Path) -> Path:
    return webdataset(folder, json_only=True)


def coco(split: str, name: str, text_ids: bool) -> str:
    mine = [n for part, n in numbers() if part == split]
    known = {n: f"img_{n}" if text_ids else str(n) for n in mine}
    return json.dumps(
        {
            "info": {},
            "categories": [],
            "images": [{"id": known[n], "file_name": name.format(split=split, n=n)} for n in mine],
            "annotations": [{"id": 1, "image_id": known[n], "caption": text} for n in mine for text in say(n)],
        }
    )


def roboflow(folder: Path) -> Path:
    """A file beside the photos of each split; ids are texts."""
    photos(folder)
    for split in SPLITS:
        put(folder / split / "_annotations.coco.json", coco(split, "{n:04d}.png", text_ids=True))
    return folder


def labeling_tool(folder: Path) -> Path:
    """Absolute paths of another machine, ids that are texts of digits."""
    photos(folder, "data")
    for split in SPLITS:
        put(folder / f"labels_{split}.json", coco(split, "/home/ann/{split}/{n:04d}.png", text_ids=False))
    return folder


def coco_captions(folder: Path) -> Path:
    photos(folder)
    for split in SPLITS:
        put(folder / f"annotations/captions_{split}.json", coco(split, "{n:04d}.png", text_ids=False))
    return folder


def karpathy(folder: Path) -> Path:
    photos(folder, "images")
    images = [
        {"filename": f"{n:04d}.png", "imgid": n, "split": split, "sentences": [{"raw": text} for text in say(n)]}
        for split, n in numbers()
    ]
    put(folder / "dataset.json", json.dumps({"images": images}))
    return folder


def parquet(folder: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True)
    for split in SPLITS:
        mine = [n for part, n in numbers() if part == split]
        images = [{"bytes": png(n), "path": f"{n:04d}.png"} for n in mine]
        table = pyarrow.table({"image": images, "captions": [say(n) for n in mine], "image_id": mine})
        pyarrow.parquet.write_table(table, where=folder / f"{split}.parquet")
    return folder


LAYOUTS = [
    karpathy,
    coco_captions,
    parquet,
    sidecars,
    caption_files,
    imagefolder,
    imagefolder_in_one_file,
    csv_with_splits,
    csv_of_one_row_each,
    tsv_by_file,
    flickr30k,
    flickr8k,
    webdataset,
    webdataset_json,
    roboflow,
    labeling_tool,
]
