"""Labeled photos: class folders that are empty or hold nonsense, parquet and webdataset files with wrong columns."""

import io
import os
import random
import tarfile
from pathlib import Path

from tests.fuzz.captions import photos
from train.labels import read_labeled

from . import mutate

NAMES = ("0.png", "1.jpg", "a b.webp", "notes.txt", ".hidden.png", "🦆.png", "x" * 200 + ".png", "no-suffix")


def prepare() -> None:
    import datasets
    import pyarrow.parquet  # noqa: F401

    datasets.disable_progress_bars()
    photos()


def make_folders(rng: random.Random, folder: Path) -> Path:
    for name in rng.sample(("cat", "dog", "🦆", "empty", " ", "deep/er"), k=rng.choice((0, 1, 2, 3))):
        path = folder / rng.choice(("val", "validation", "test")) / name
        path.mkdir(parents=True, exist_ok=True)
        for _ in range(rng.choice((0, 1, 2))):
            file = path / rng.choice(NAMES)
            if os.path.lexists(file):
                continue
            match rng.randrange(8):
                case 0:
                    file.mkdir()
                case 1:
                    file.symlink_to(rng.choice((".", "..", "/dev/zero", "nowhere", "/etc/passwd")))
                case 2:
                    file.write_bytes(mutate.bytes_of(rng, rng.choice(photos())))
                case _:
                    file.write_bytes(rng.choice(photos()))
    if rng.random() < 0.05:
        (folder / "val").mkdir(exist_ok=True)
    return folder


def make_files(rng: random.Random, folder: Path) -> Path:
    return _parquet(rng, folder) if rng.random() < 0.6 else _archive(rng, folder)


def _parquet(rng: random.Random, folder: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    count = rng.choice((0, 4, 4, 4, 4))
    columns: dict[str, list] = {
        "image": [{"bytes": data, "path": None} for data in photos()[:count]],
        "label": list(range(count)),
    }
    for _ in range(rng.choice((0, 1, 1, 2))):
        name = rng.choice([*columns])
        match rng.randrange(5):
            case 0 if len(columns) > 1:
                del columns[name]
            case 1:
                columns[rng.choice(("labels", "Image", "cls", "png", "json"))] = columns.pop(name)
            case _:
                value = rng.choice(
                    (
                        None,
                        -1,
                        2**40,
                        "cat",
                        0.5,
                        b"",
                        b"\xff\xd8",
                        [],
                        [1],
                        {"label": 1},
                        {"label": None},
                        {"bytes": None, "path": "/etc/passwd"},
                        {"bytes": b"", "path": ""},
                    )
                )
                columns[name] = [value] * count
    path = folder / "val.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    if rng.random() < 0.3:
        path.write_bytes(mutate.bytes_of(rng, path.read_bytes()))
    if rng.random() < 0.1:
        (folder / "classes.txt").write_bytes(rng.choice((b"", b"one\n", b"a\nb\nc\nd\n", b"\xff\xfe", bytes(1000))))
    return folder


def _archive(rng: random.Random, folder: Path) -> Path:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in range(rng.choice((0, 1, 3))):
            label = rng.choice((b"1", b'{"label": 1}', b"-5", b"x", b""))
            for ending, data in (
                (rng.choice(("png", "jpg", "bmp", "pyd")), photos()[0]),
                (rng.choice(("cls", "json", "txt", "pickle")), label),
            ):
                entry = tarfile.TarInfo(rng.choice((f"{number}", f"../{number}", f"/{number}")) + f".{ending}")
                if rng.random() < 0.1:
                    entry.type, entry.linkname, data = tarfile.SYMTYPE, "/etc/passwd", b""
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    data = file.getvalue()
    (folder / "val.tar").write_bytes(mutate.bytes_of(rng, data) if rng.random() < 0.5 else data)
    return folder


def read(folder: Path) -> None:
    labeled = read_labeled(str(folder), "val")
    assert len(labeled) and not labeled.multi_label
    assert int(labeled.targets.min()) >= 0 and int(labeled.targets.max()) < len(labeled.classes)
    for number in range(len(labeled)):
        labeled.load(number)
