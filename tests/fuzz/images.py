"""Image files: every format that is read, odd kinds, damage, bombs."""

import io
import random
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from vlcap.data.images import FORMATS, MAX_PIXELS, load_image

from . import mutate

BOMB = 1 / 250  # share of inputs that are as large as allowed, or larger


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@cache
def seeds() -> list[bytes]:
    """Small files of all formats, modes and options."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 50, 4), dtype=np.uint8), "RGBA")
    rgb, grey, palette, alpha = noise.convert("RGB"), noise.convert("L"), noise.convert("P"), noise.convert("LA")
    wide = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (37, 50), dtype=np.uint16))
    floats = Image.fromarray(np.random.default_rng(2).normal(size=(37, 50)).astype(np.float32))
    frames = [rgb.rotate(turn) for turn in (0, 90, 180)]
    found = [encode(rgb, kind) for kind in FORMATS]
    found += [encode(image, "PNG") for image in (noise, grey, palette, alpha, wide, noise.convert("1"))]
    found += [
        encode(rgb, "JPEG", progressive=True),
        encode(grey, "JPEG"),
        encode(noise.convert("CMYK"), "JPEG"),
        encode(rgb, "JPEG", quality=100, subsampling=0, restart_marker_blocks=1),
    ]
    found += [
        encode(rgb, "JPEG", exif=exif(tag, value)) for tag, value in ((0x0112, 6), (0x0112, 99), (0x010F, "x" * 60_000))
    ]
    found += [
        encode(rgb, kind, icc_profile=profile)
        for kind in ("JPEG", "PNG", "WEBP", "TIFF")
        for profile in (b"no profile", bytes(60_000))
    ]
    found += [encode(noise, "WEBP", lossless=True), encode(noise, "AVIF"), encode(grey, "JPEG2000")]
    found += [
        encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        for kind, options in (("GIF", {"loop": 0}), ("PNG", {}), ("WEBP", {}), ("TIFF", {}), ("AVIF", {}))
    ]
    found += [
        encode(rgb, "TIFF", compression=kind)
        for kind in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "zstd", "lzma", "tiff_deflate")
    ]
    found += [
        encode(image, "TIFF")
        for image in (wide, floats, palette, noise, noise.convert("CMYK"), rgb.convert("YCbCr"), rgb.convert("LAB"))
    ]
    found += [encode(noise.convert("1"), "TIFF", compression="group4"), encode(rgb, "TIFF", big_tiff=True)]
    found += [encode(image, "BMP") for image in (grey, palette, noise, noise.convert("1"))]
    found += [encode(image, "PPM") for image in (grey, wide, noise.convert("1"))]
    found += [
        encode(Image.new("RGB", size), kind)
        for size in ((1, 1), (1, 20_000), (20_000, 1), (1, 100), (3, 299))
        for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP")
    ]
    return [
        *found,
        b"P3 2 2 255 1 2 3 4 5 6 7 8 9 0 0 0",
        b"P1 3 3 1 0 1 0 1 0 1 0 1",
        b"GIF89a",
        b"",
        b"<svg></svg>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ]


def exif(tag: int, value) -> Image.Exif:
    tags = Image.Exif()
    tags[tag] = value
    return tags


def png(width: int, height: int, color: int, depth: int, data: bytes, extra: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width % 2**32, height % 2**32, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@cache
def zeros(size: int) -> bytes:
    """Zeros, deflated to a thousandth of their size."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(min(1 << 20, size - at))) for at in range(0, size, 1 << 20)) + packer.flush()


def bomb(rng: random.Random) -> bytes:
    """A small file that asks for much memory: as many pixels as allowed, or more, or large other data."""
    side = int(MAX_PIXELS**0.5)
    match rng.randrange(8):
        case 0 | 1:  # as many pixels as allowed, of every kind
            color, depth, bytes_each = rng.choice(((2, 8, 3), (6, 8, 4), (0, 16, 2), (4, 8, 2), (2, 16, 6), (0, 8, 1)))
            width, height = rng.choice(((side, side), (side * 8, side // 8), (side // 8, side * 8)))
            return png(width, height, color, depth, zeros((width * bytes_each + 1) * height))
        case 2:  # more pixels than there is data for
            return png(side, side, rng.choice((0, 2, 6)), 8, zeros(1 << 16))
        case 3:
            size = rng.choice((20_000, 65_535, 2**31 - 1, 2**32 - 1))
            return png(size, rng.choice((size, 1, 2)), 2, 8, zeros(1 << 16))
        case 4:  # a color profile, or a text, of 200 MB
            kind = rng.choice((b"iCCP", b"zTXt", b"iTXt"))
            head = {b"iCCP": b"x\0\0", b"zTXt": b"x\0\0", b"iTXt": b"x\0\1\0\0\0"}[kind]
            return png(2, 2, 2, 8, zlib.compress(bytes(14)), _chunk(kind, head + zeros(200 << 20)))
        case 5:  # later frames of an animation
            data = bytearray(encode(Image.new("P", (9, 9)), "GIF"))
            return bytes(data[:-1]) + bytes(data[data.index(b",") : -1]) * 20_000 + b";"
        case 6:  # a real photo of the largest size
            return _large(rng.choice(("JPEG", "progressive", "WEBP", "TIFF", "GIF", "JPEG2000")))
        case _:
            tag = rng.choice((256, 257, 258, 273, 277, 279, 322))
            field = struct.pack("<HHII", tag, 4, 1, rng.choice(mutate.NUMBERS))
            data = encode(Image.new("RGB", (9, 9)), "TIFF")
            place = data.find(field[:2])
            return data[:place] + field + data[place + 12 :]


@cache
def _large(kind: str) -> bytes:
    if kind == "WEBP":  # its own limit is 16,383 pixels per side
        return encode(Image.new("RGB", (8000, MAX_PIXELS // 8000)), "WEBP", method=0)
    if kind == "JPEG2000":
        return encode(Image.new("RGB", (5000, MAX_PIXELS // 5000)), "JPEG2000")
    image = Image.new("RGB" if kind != "GIF" else "P", (60_000, MAX_PIXELS // 60_000))
    return encode(
        image,
        "JPEG" if kind == "progressive" else kind,
        **{
            "progressive": {"progressive": True, "subsampling": 0, "exif": exif(0x0112, 6)},
            "TIFF": {"compression": "tiff_adobe_deflate"},
        }.get(kind, {}),
    )


def make(rng: random.Random, folder: Path) -> Path:
    path = folder / "input.photo"
    if rng.random() < BOMB:
        data = bomb(rng)
    else:
        data = rng.choice(seeds())
        if data.startswith(b"\x89PNG") and rng.random() < 0.3:  # a wrong header under a right checksum
            head = bytearray(data[16:29])
            head[rng.randrange(13)] = rng.randrange(256)
            data = data[:8] + _chunk(b"IHDR", bytes(head)) + data[33:]
        elif rng.random() < 0.95:
            data = mutate.bytes_of(rng, data, others=seeds())
    path.write_bytes(data)
    return path


def read(path: Path) -> None:
    image = load_image(path)
    assert image.mode == "RGB" and 0 < image.width * image.height <= MAX_PIXELS
