"""Damaged caption data: folders in COCO's, Karpathy's and parquet layouts, files of references and of predictions."""

import json
import os
import random
from functools import cache
from pathlib import Path
from typing import Any

from vlcap.data.captions import read_captions, read_coco_captions, read_coco_results

from . import images, mutate

COUNT = 4  # photos in a set


@cache
def photos() -> list[bytes]:
    return [images.encode(images.Image.new("RGB", (8, 9), (number, 0, 0)), "PNG") for number in range(COUNT)]


def coco(rng: random.Random) -> dict[str, Any]:
    return {
        "info": {"year": 2014},
        "images": [{"id": number, "file_name": f"{number}.png", "height": 9} for number in range(COUNT)],
        "annotations": [
            {"id": number, "image_id": number % COUNT, "caption": f"a caption of photo {number}"}
            for number in range(2 * COUNT)
        ],
    }


def karpathy(rng: random.Random) -> dict[str, Any]:
    return {
        "dataset": "coco",
        "images": [
            {
                "filepath": "val2014",
                "filename": f"{number}.png",
                "split": rng.choice(("val", "val", "train", "restval")),
                "cocoid": number,
                "imgid": number,
                "sentids": [number],
                "sentences": [{"raw": f"photo {number}", "tokens": ["photo", str(number)]}],
            }
            for number in range(COUNT)
        ],
    }


def predictions(rng: random.Random) -> list[dict[str, Any]]:
    return [{"image_id": number, "caption": f"a photo {number}"} for number in range(COUNT)]


def _write_photos(rng: random.Random, folder: Path) -> None:
    folder.mkdir()
    for number, data in enumerate(photos()):
        match rng.randrange(40):
            case 0:
                continue
            case 1:
                data = mutate.bytes_of(rng, data)
            case 2:
                (folder / f"{number}.png").mkdir()
                continue
            case 3:
                target = rng.choice(("/dev/zero", "/etc/passwd", "nowhere", f"{number}.png", "."))
                (folder / f"{number}.png").symlink_to(target)
                continue
        (folder / f"{number}.png").write_bytes(data)


def make_coco(rng: random.Random, folder: Path) -> Path:
    _write_photos(rng, folder / "val2014")
    path = folder / rng.choice(("annotations/captions_val2014.json", "captions_val2014.json"))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(mutate.json_text(rng, coco(rng)))
    return folder


def make_karpathy(rng: random.Random, folder: Path) -> Path:
    _write_photos(rng, folder / "val2014")
    (folder / "dataset_coco.json").write_bytes(mutate.json_text(rng, karpathy(rng)))
    return folder


def read_folder(folder: Path) -> None:
    """Reads as evaluation does: the split, its photos, its fingerprint."""
    captions = read_captions(folder, "val")
    assert len(set(captions.image_ids)) == len(captions) and all(map(all, captions.captions))
    for number, source in enumerate(captions.sources):
        if isinstance(source, str):
            assert Path(os.path.normpath(source)).is_relative_to(folder), source
        captions.image(number)
    captions.fingerprint()
    json.dumps(captions.references())


def make_references(rng: random.Random, folder: Path) -> Path:
    path = folder / "input.json"
    path.write_bytes(mutate.json_text(rng, coco(rng)))
    return path


def read_references(path: Path) -> None:
    assert all(map(all, read_coco_captions(path).values()))


def make_predictions(rng: random.Random, folder: Path) -> Path:
    path = folder / "input.json"
    path.write_bytes(mutate.json_text(rng, predictions(rng)))
    return path


def read_predictions(path: Path) -> None:
    assert all(isinstance(text, str) for text in read_coco_results(path).values())


def make_parquet(rng: random.Random, folder: Path) -> Path:
    """Columns that are missing, renamed, null or of other types; files cut short or of another format."""
    import pyarrow
    import pyarrow.parquet

    rows = COUNT if rng.random() < 0.95 else 0
    columns: dict[str, list] = {
        "image": [{"bytes": data, "path": f"{number}.png"} for number, data in enumerate(photos()[:rows])],
        "captions": [[f"a photo {number}", "another"] for number in range(rows)],
        "image_id": list(range(rows)),
        "filename": [f"{number}.png" for number in range(rows)],
    }
    for _ in range(rng.choice((0, 1, 1, 2))):
        name = rng.choice([*columns])
        row = rng.randrange(rows) if rows else 0
        match rng.randrange(8):
            case 0:
                del columns[name]
                if not columns:
                    break
            case 1:
                columns[rng.choice(("caption", "Image", "text", "label"))] = columns.pop(name)
            case 2:
                columns[name] = [None] * rows
            case 3 if rows:
                columns[name] = [*columns[name][:row], None, *columns[name][row + 1 :]]
            case 4:
                columns[name] = [rng.choice((1, -5, 2**62))] * rows
            case 5:
                columns[name] = [rng.choice(("", "a", "🦆", "1", mutate.WORDS, "\0"))] * rows
            case 6:
                columns[name] = [rng.choice((b"", b"\xff\xd8\xff", photos()[0]))] * rows
            case _:
                columns[name] = [
                    rng.choice(
                        (
                            [],
                            [None],
                            [["a"]],
                            {"bytes": b"", "path": "/etc/passwd"},
                            {"bytes": None, "path": "/etc/passwd"},
                            {"path": "x"},
                            0.5,
                            True,
                        )
                    )
                ] * rows
    path = folder / rng.choice(("val.parquet", "val-00000-of-00001.parquet"))
    options = {"compression": rng.choice(("snappy", "zstd", "none", "gzip")), "row_group_size": rng.choice((None, 1))}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    if rng.random() < 0.4:
        data = path.read_bytes()
        whole = rng.choice((0, len(data) - 400))  # the footer, which all decisions depend on, is at the end
        path.write_bytes(data[:whole] + mutate.bytes_of(rng, data[whole:]))
    return folder
