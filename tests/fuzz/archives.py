"""Zip archives of photos, as the web page takes them: names that lead elsewhere, links, bombs, damage."""

import io
import random
import struct
import zipfile
from pathlib import Path

from tests.fuzz.captions import photos
from vlcap.data.archives import MAX_BYTES, MAX_PHOTOS, count_photos, read_photos
from vlcap.data.images import ImageError, load_image
from vlcap.data.names import printable

from . import mutate

NAMES = (
    "a.png",
    "folder/b.png",
    "../../outside.png",
    "/etc/absolute.png",
    "C:\\x.png",
    "a\0b.png",
    ".hidden.png",
    "__MACOSX/x.png",
    "..",
    "",
    "x" * 5000 + ".png",
    "\u202egnp.exe",
    "line\nbreak.png",
    "🦆.png",
    "inner.zip",
)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def make(rng: random.Random, folder: Path) -> Path:
    path, file = folder / "input.zip", io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for _ in range(rng.choice((0, 1, 3, 5, MAX_PHOTOS + 2 if rng.random() < 0.1 else 2))):
            entry = zipfile.ZipInfo(rng.choice(NAMES))
            entry.compress_type = rng.choice(METHODS)
            data = rng.choice(photos())
            match rng.randrange(12):
                case 0:
                    entry.external_attr, data = 0o120777 << 16, b"/etc/passwd"  # a link
                case 1:
                    data = mutate.bytes_of(rng, data)
                case 2:
                    data = file.getvalue() + zipfile.ZipFile(io.BytesIO(), "w").fp.getvalue()
                case 3 if rng.random() < 0.05:
                    entry.compress_type, data = zipfile.ZIP_DEFLATED, bytes(2 * MAX_BYTES)
                case 4:
                    entry.flag_bits |= 1
            archive.writestr(entry, data)
    data = file.getvalue()
    if rng.random() < 0.5:
        end = len(data) - rng.choice((0, 22, 200))  # the directory with all names and sizes is at the end
        data = data[:end] + mutate.bytes_of(rng, data[end:]) if rng.random() < 0.5 else mutate.bytes_of(rng, data)
    elif rng.random() < 0.3 and (place := data.find(b"PK\1\2")) > 0:  # false sizes
        sizes = struct.pack("<II", rng.choice(mutate.NUMBERS), rng.choice(mutate.NUMBERS))
        data = data[: place + 20] + sizes + data[place + 28 :]
    path.write_bytes(data)
    return path


def read(path: Path) -> None:
    """Reads as the page does. A bad archive raises no error, it gives a row."""
    rows, total = 0, count_photos([path])
    for name, source in read_photos([(path.name, path)]):
        rows += 1
        assert printable(name) == name and len(name) <= 200
        if not isinstance(source, ImageError):
            try:
                load_image(source, name=name)
            except ImageError as error:
                assert "\n" not in str(error)
    assert 1 <= rows <= max(total, 1) <= MAX_PHOTOS + 1
    assert [each.name for each in path.parent.iterdir()] == [path.name]
