"""Opening pictures: every kind becomes upright 8-bit RGB, and everything else gives one clear error."""

import io
import json
import math
import os
import pickle
import random
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from vlcap.data import finding, images
from vlcap.data.images import DRAFT_SIDE, ImageError, PixelConfig, find_images, load_image

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)

# EXIF 2.32, tag 274: the side of the upright picture where the stored first row is, and the stored first column.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}
OPPOSITE = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def noise(width: int = 32, height: int = 24, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(seed=0).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def plain(mode: str, color, width: int = 20, height: int = 10) -> Image.Image:
    return Image.new(mode=mode, size=(width, height), color=color)


def near(pixel: tuple[int, ...], color: tuple[int, ...], tolerance: int = 2) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, color, strict=True))


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises a size, with hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_puts_every_corner_in_its_place(orientation: int, kind: str):
    stored = Image.new(mode="RGB", size=(64, 32))
    corners = {("first", "first"): RED, ("first", "last"): GREEN, ("last", "first"): BLUE, ("last", "last"): GREY}
    for (row, column), color in corners.items():
        left, top = 32 * (column == "last"), 16 * (row == "last")
        stored.paste(color, (left, top, left + 32, top + 16))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = load_image(encode(stored, kind, exif=exif, **({"quality": 95} if kind in ("JPEG", "WEBP") else {})))

    assert image.size == ((64, 32) if orientation <= 4 else (32, 64))
    row_side, column_side = SIDES[orientation]
    for (row, column), color in corners.items():
        sides = {
            row_side if row == "first" else OPPOSITE[row_side],
            column_side if column == "first" else OPPOSITE[column_side],
        }
        x = 4 if "left" in sides else image.width - 5
        y = 4 if "top" in sides else image.height - 5
        assert near(image.getpixel((x, y)), color, tolerance=6), (sides, color)
    assert load_image(image).tobytes() == image.tobytes(), "turned a second time"


@pytest.mark.parametrize(
    ("image", "kind", "options", "expected"),
    [
        (plain("L", 77), "PNG", {}, (77, 77, 77)),
        (plain("L", 77), "JPEG", {}, (77, 77, 77)),
        (plain("1", 1), "PNG", {}, (255, 255, 255)),
        (plain("LA", (0, 0)), "PNG", {}, (255, 255, 255)),
        (plain("LA", (100, 255)), "PNG", {}, (100, 100, 100)),
        (plain("RGBA", (255, 0, 0, 0)), "PNG", {}, (255, 255, 255)),
        (plain("RGBA", (255, 0, 0, 51)), "PNG", {}, (255, 204, 204)),
        (plain("RGBA", (0, 0, 255, 255)), "WEBP", {"lossless": True}, BLUE),
        (plain("RGBA", (0, 0, 255, 0)), "WEBP", {"lossless": True, "exact": True}, (255, 255, 255)),
        (plain("RGBA", (0, 0, 255, 0)), "AVIF", {}, (255, 255, 255)),
        (plain("RGBA", (0, 0, 255, 0)), "TIFF", {}, (255, 255, 255)),
        (plain("RGB", RED), "PNG", {"transparency": RED}, (255, 255, 255)),
        (plain("L", 9), "PNG", {"transparency": 9}, (255, 255, 255)),
        (plain("RGB", RED).quantize(), "PNG", {}, RED),
        (plain("RGB", RED).quantize(), "PNG", {"transparency": 0}, (255, 255, 255)),
        (plain("RGB", RED).quantize(), "PNG", {"transparency": b"\x33"}, (255, 204, 204)),
        (plain("RGB", GREEN).quantize(), "GIF", {"transparency": 0}, (255, 255, 255)),
        (plain("CMYK", (0, 255, 255, 0)), "JPEG", {"quality": 95}, RED),
        (plain("CMYK", (0, 255, 255, 0)), "TIFF", {}, RED),
        (plain("YCbCr", (128, 128, 128)), "JPEG", {}, GREY),
        (plain("I;16", 40_000), "PNG", {}, (156, 156, 156)),
        (plain("I;16", 5_000), "TIFF", {}, (19, 19, 19)),
        (plain("I;16", 128), "PNG", {}, GREY),  # 8-bit values in a wider type
        (plain("I", 128), "TIFF", {}, GREY),
        (plain("I;16", 2_048), "TIFF", {}, (128, 128, 128)),  # 12 bits, as from microscopes and scanners
        (plain("I", 40_000), "PPM", {}, (156, 156, 156)),
        (plain("F", 0.5), "TIFF", {}, GREY),
        (plain("F", 200.0), "TIFF", {}, (200, 200, 200)),
        (plain("RGB", BLUE), "BMP", {}, BLUE),
        (plain("RGB", BLUE), "PPM", {}, BLUE),
        (plain("RGB", BLUE), "JPEG2000", {}, BLUE),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "mode", ""),
)
def test_every_mode_becomes_rgb(image: Image.Image, kind: str, options: dict, expected: tuple[int, int, int]):
    loaded = load_image(encode(image, kind, **options))
    assert (loaded.mode, loaded.size, type(loaded)) == ("RGB", image.size, Image.Image)
    assert near(loaded.getpixel((3, 3)), expected), loaded.getpixel((3, 3))
    assert load_image(loaded).tobytes() == loaded.tobytes()


@pytest.mark.parametrize("mode", ["PA", "RGBa", "RGBX", "HSV", "LAB", "I;16B", "I;16L"])
def test_pil_images_of_rare_modes(mode: str):
    assert load_image(Image.new(mode=mode, size=(4, 4))).mode == "RGB"


def test_wide_greys_keep_their_order_and_use_all_of_8_bits():
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for image in (Image.fromarray(ramp), Image.fromarray(ramp.astype(np.int32))):
        grey = np.asarray(load_image(image))[..., 0]
        assert (grey == np.round(ramp / 257)).all()
    beyond = np.asarray(load_image(Image.fromarray(ramp.astype(np.int32) * 1000 - 500)))[..., 0]
    assert (beyond.min(), beyond.max()) == (0, 255) and (np.diff(beyond.ravel().astype(int)) >= 0).all()


def test_floats_that_are_not_numbers_are_black():
    values = np.array([[np.nan, np.inf, -np.inf, 1.0, 0.0]] * 5, dtype=np.float32)
    assert np.asarray(load_image(Image.fromarray(values)))[0, :, 0].tolist() == [0, 0, 0, 255, 0]
    assert np.asarray(load_image(plain("F", -7.0))).max() == 0
    assert load_image(Image.fromarray(np.array([[-3e38, 3e38]], dtype=np.float32))).size == (2, 1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_and_pages_give_the_first(kind: str):
    frames = [plain("RGB", color, width=16, height=16) for color in (RED, GREEN, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    loaded = load_image(encode(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert near(loaded.getpixel((5, 5)), RED)


def test_every_source_gives_the_same_picture(tmp_path: Path):
    data = encode(noise(), "JPEG")
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    expected = load_image(data).tobytes()
    with path.open("rb") as file:
        file.read(7)  # the position in the file does not matter, and it stays open
        assert load_image(file).tobytes() == expected
        assert not file.closed
    with Image.open(path) as opened:
        assert load_image(opened).tobytes() == expected
    assert load_image(path).tobytes() == expected
    assert load_image(str(path)).tobytes() == expected


def test_a_pil_image_is_left_as_it_was():
    image = plain("RGB", RED)
    image.info["note"] = "kept"
    loaded = load_image(image)
    loaded.paste(BLUE, (0, 0, 20, 10))
    assert image.getpixel((0, 0)) == RED and image.info == {"note": "kept"} and loaded.info == {}


def test_big_jpegs_are_decoded_small_others_whole():
    big = encode(plain("RGB", GREEN, width=3 * DRAFT_SIDE, height=2 * DRAFT_SIDE), "JPEG")
    assert load_image(big).size == (3 * DRAFT_SIDE // 2, DRAFT_SIDE)
    less = encode(plain("L", 9, width=3 * DRAFT_SIDE, height=2 * DRAFT_SIDE - 1), "JPEG")
    assert load_image(less).size == (3 * DRAFT_SIDE, 2 * DRAFT_SIDE - 1)


def test_a_photo_with_damaged_exif_is_still_a_photo():
    assert load_image(encode(noise(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense")).size == (32, 24)
    assert load_image(encode(noise(), "JPEG", exif=b"Exif\0\0nonsense")).size == (32, 24)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.jpg", encode(noise(), "JPEG")[:-200], "cut short"),
        ("cut.png", encode(noise(), "PNG")[:-200], "cut short"),
        ("text.jpg", b"this is a letter, not a photo\n" * 9, "not an image"),
        ("page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        ("program.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        ("header.jpg", encode(noise(), "JPEG")[:30], "cut short"),
        ("empty.jpg", b"", "the file is empty"),
        ("bomb.png", png_header(20_000, 20_000), "too large"),
        ("over.png", png_header(9_000, 9_000), "too large, 9000 x 9000 pixels (the limit is 80 million)"),
        ("thin.png", png_header(10_000, 3), "not a usable shape, 10000 x 3 pixels"),
        ("noise.png", encode(noise(), "PNG")[:60] + random.Random(0).randbytes(400), "damaged, it cannot be decoded"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_picture_is_one_clear_error(tmp_path: Path, capfd, name: str, content: bytes, message: str):
    path = tmp_path / name
    path.write_bytes(content)
    for source, called in ((path, str(path)), (content, "image bytes"), (io.BytesIO(content), "image (BytesIO)")):
        with pytest.raises(ImageError) as caught:
            load_image(source)
        text = str(caught.value)
        assert text.startswith(f"{called}: ") and message in text and "\n" not in text
    assert capfd.readouterr() == ("", "")


def test_paths_that_cannot_be_opened(tmp_path: Path):
    (tmp_path / "album").mkdir()
    for path, message in [
        (tmp_path / "nowhere.jpg", "no such file"),
        (tmp_path / "album", "a folder without images"),
        (tmp_path / ("long" * 100), "File name too long"),
        ("nul\0.jpg", "null"),
    ]:
        with pytest.raises(ImageError, match=message):
            load_image(path)
    noise().save(tmp_path / "album" / "a.png")
    with pytest.raises(ImageError, match="a folder, not an image file"):
        load_image(tmp_path / "album")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "secret.png").touch()
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageError, match="no permission to read this file"):
        load_image(tmp_path / "secret.png")


def test_the_name_in_the_message_is_the_callers_and_one_line():
    with pytest.raises(ImageError, match=r"^row 7 of train\.parquet: the file is empty$"):
        load_image(b"", name="row 7 of train.parquet")
    with pytest.raises(ImageError) as caught:
        load_image("two\nlines.jpg")
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # worker processes send errors


def test_the_size_limit_is_the_callers():
    data = encode(noise(width=32, height=24), "PNG")
    assert load_image(data, max_pixels=32 * 24).size == (32, 24)
    for source in (data, Image.open(io.BytesIO(data))):
        with pytest.raises(ImageError, match="32 x 24"):
            load_image(source, max_pixels=32 * 24 - 1)


def test_what_is_no_source_is_a_type_error():
    with pytest.raises(TypeError, match="load_image takes a path"):
        load_image(None)


def test_memory_and_odd_errors_of_the_decoder_are_image_errors(monkeypatch: pytest.MonkeyPatch):
    data = encode(noise(), "PNG")
    for error, message in [(MemoryError(), "not enough memory"), (RuntimeError("a\nb"), r"RuntimeError: a b")]:

        def fail(self, error=error):
            raise error

        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
        with pytest.raises(ImageError, match=message):
            load_image(data)


def test_damaged_files_raise_image_error_and_nothing_else(capfd):
    chance = random.Random(0)
    image = noise()
    kinds = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000")
    originals = [encode(image, kind) for kind in kinds]
    originals.append(encode(image, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"))
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for original in originals:
            for _ in range(40):
                data = bytearray(original)
                for _ in range(chance.randint(1, 6)):
                    data[chance.randrange(min(len(data), 300))] = chance.randrange(256)
                try:
                    load_image(bytes(data[: chance.choice([len(data), chance.randrange(len(data))])]))
                except ImageError:
                    refused += 1
    assert refused > 100
    assert capfd.readouterr().err == ""


def test_warnings_of_others_stay_on():
    load_image(encode(noise(), "PNG"))
    with pytest.warns(UserWarning, match="still heard"):
        warnings.warn("still heard", stacklevel=1)


def test_find_images(tmp_path: Path):
    def find_images(paths):
        return images.find_images(paths).images

    for name in ("b.JPG", "a.png", "sub/c.webp", "sub/deep/d.tif", "notes.txt", ".hidden.png", ".cache/e.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "nothing").mkdir()
    below = [tmp_path / name for name in ("a.png", "b.JPG", "sub/c.webp", "sub/deep/d.tif")]
    assert find_images([tmp_path]) == below
    once = [below[1], below[0], *below[2:]]
    assert find_images([str(tmp_path / "b.JPG"), tmp_path, tmp_path / "sub/../a.png"]) == once
    assert find_images([tmp_path / ".cache"]) == [tmp_path / ".cache/e.png"]
    for kept in ([tmp_path / "notes.txt"], [tmp_path / "gone.jpg", tmp_path / "nothing"]):
        assert find_images(kept) == kept
    assert find_images([]) == []
    assert find_images(["nul\0.jpg", "x" * 999]) == [Path("nul\0.jpg"), Path("x" * 999)]


def test_every_format_that_is_read_when_named_is_found_in_a_folder(tmp_path: Path):
    import pillow_heif

    pillow_heif.register_heif_opener()
    Image.init()
    suffixes = {suffix for suffix, kind in Image.EXTENSION.items() if kind in {*images.FORMATS, "MPO", "HEIF"}}
    assert suffixes | {".dib"} == finding.SUFFIXES
    for suffix in suffixes:
        (tmp_path / f"photo{suffix.upper()}").touch()
    assert len(find_images([tmp_path]).images) == len(suffixes)


def test_what_a_folder_holds_besides_is_counted(tmp_path: Path):
    names = ("a.png", "b.jxl", "sub/c.txt", "sub/d.txt", "Thumbs.db", "README", ".DS_Store")
    for name in names:
        put = tmp_path / name
        put.parent.mkdir(exist_ok=True)
        put.touch()
    found = find_images([tmp_path, tmp_path / "sub/d.txt"])
    assert found.images == [tmp_path / "a.png", tmp_path / "sub/d.txt"]  # it was named, so it is not among the others
    assert found.remarks() == [
        f"skipped 4 files that are not images of a known format: 1 without a suffix, 1 .db, 1 .jxl, 1 .txt "
        f"(first: {tmp_path / 'README'})"
    ]
    assert not found.complete
    (tmp_path / "b.jxl").unlink()
    assert find_images([tmp_path]).complete  # a text is not a picture: no picture is missing
    assert find_images([tmp_path / "a.png"]).remarks() == []


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("open/a.png", "shut/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_images([tmp_path])
    assert found.images == [tmp_path / "open/a.png"] and not found.complete
    assert found.remarks() == [f"{tmp_path / 'shut'}: this folder cannot be read (Permission denied)"]
    assert find_images([tmp_path / "shut"]).images == []


def test_links_to_folders_are_followed_once(tmp_path: Path):
    album, elsewhere = tmp_path / "album", tmp_path / "elsewhere"
    for path in (album / "own/a.png", elsewhere / "b.png", tmp_path / "beside.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for link, target in {
        "far": elsewhere,
        "again": elsewhere,
        "mine": album / "own",
        "loop": album,
        "up": tmp_path,
        "gone": tmp_path / "nowhere",
        "root": "/",
    }.items():
        (album / link).symlink_to(target)
    (elsewhere / "back").symlink_to(tmp_path)  # above the album, though not above this link
    (elsewhere / "c.png").symlink_to(tmp_path / "beside.png")  # a link to a photo is a photo
    found = find_images([album])
    assert found.images == [album / "again/b.png", album / "again/c.png", album / "own/a.png"]
    assert found.others == [album / "gone"]


def test_heic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """HEIC as phones save it, with its own rotation; and the hint if the package is not installed."""
    import sys

    import pillow_heif

    stored = plain("RGB", RED, width=64, height=48)
    stored.paste(BLUE, (0, 0, 64, 24))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the stored top is the upright right
    path = tmp_path / "IMG_0001.HEIC"
    pillow_heif.from_pillow(stored).save(path, exif=exif.tobytes(), quality=90)
    image = load_image(path)
    assert image.size == (48, 64)
    assert near(image.getpixel((5, 30)), RED, 12) and near(image.getpixel((42, 30)), BLUE, 12)
    assert load_image(path.read_bytes()).tobytes() == image.tobytes()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageError, match=r"IMG_0001\.HEIC: "):
        load_image(path)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"IMG_0001\.HEIC: .*pip install 'vlcap\[heic\]'$"):
        load_image(path)


def test_a_large_jpeg_is_judged_by_what_is_decoded_of_it(monkeypatch: pytest.MonkeyPatch):
    """Photos of 108-megapixel phones are read, but not progressive or long, thin ones, which are decoded whole."""
    monkeypatch.setattr(images, "MAX_PIXELS", 2_000_000)
    large = plain("RGB", GREEN, width=3000, height=2100)
    assert load_image(encode(large, "JPEG")).size == (1500, 1050)
    thin = plain("RGB", GREEN, width=20_000, height=300)
    for refused in (encode(large, "JPEG", progressive=True), encode(large, "PNG"), encode(thin, "JPEG")):
        with pytest.raises(ImageError, match=r"too large, \d+ x \d+ pixels \(the limit is 2 million\)"):
            load_image(refused)
    with pytest.raises(ImageError, match="too large"):
        load_image(large)  # already decoded
    monkeypatch.setattr(images, "MAX_PIXELS_DRAFT", 6_000_000)
    with pytest.raises(ImageError, match=r"too large, 3000 x 2100 pixels \(the limit is 6 million\)"):
        load_image(encode(large, "JPEG"))


CONFIGS = [
    PixelConfig(size=48, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop_pct=0.875),
    PixelConfig(size=40, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), interpolation="bilinear"),
    PixelConfig(size=32, mean=(0.48, 0.45, 0.4), std=(0.26, 0.26, 0.27), crop_mode="squash"),
    PixelConfig(size=32, mean=(0.48, 0.45, 0.4), std=(0.26, 0.26, 0.27), crop_mode="border"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.crop_mode)
def test_transform_and_normalize_equal_timms_own_pipeline(config: PixelConfig):
    from timm.data import create_transform

    image = noise(width=90, height=61)
    pixels = config.eval_transform()(image)
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, config.size, config.size)
    timms = create_transform(
        input_size=(3, config.size, config.size),
        is_training=False,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
        crop_pct=config.crop_pct,
        crop_mode=config.crop_mode,
    )(image)
    torch.testing.assert_close(config.normalize(pixels), timms, rtol=0, atol=1e-6)
    batch = config.normalize(torch.stack([pixels, pixels]))
    assert batch.dtype == torch.float32 and batch.shape == (2, 3, config.size, config.size)
    torch.testing.assert_close(batch[1], timms, rtol=0, atol=1e-6)


def test_squash_keeps_the_whole_picture_and_center_does_not():
    wide = plain("RGB", RED, width=90, height=30)
    wide.paste(BLUE, (0, 0, 20, 30))
    for mode, seen in (("squash", True), ("center", False)):
        config = PixelConfig(size=30, mean=(0.5,) * 3, std=(0.5,) * 3, crop_mode=mode)
        assert bool((config.eval_transform()(wide)[2, :, 0] > 200).all()) is seen


def test_train_transform_is_random_and_gives_uint8():
    config = CONFIGS[0]
    image = noise(width=90, height=61)
    transform = config.train_transform(auto_augment="rand-m9-mstd0.5-inc1", color_jitter=0.4)
    transform = pickle.loads(pickle.dumps(transform))  # worker processes get it this way
    views = [transform(image) for _ in range(4)]
    assert all(view.dtype == torch.uint8 and view.shape == (3, 48, 48) for view in views)
    assert any(not torch.equal(views[0], view) for view in views[1:])


def test_train_transform_with_nothing_random_is_the_whole_picture():
    config = CONFIGS[2]
    image = noise(width=64, height=64)
    transform = config.train_transform(scale=(1, 1), ratio=(1, 1), hflip=0)
    assert torch.equal(transform(image), config.eval_transform()(image))


def test_pixel_config_from_a_timm_model_and_through_json():
    import timm

    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=1)
    config = PixelConfig.from_pretrained_cfg(model.pretrained_cfg)
    assert config == PixelConfig(size=224, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=0.9)
    assert PixelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert hash(config) == hash(PixelConfig.from_dict(config.to_dict()))
    assert PixelConfig.from_pretrained_cfg({}) == PixelConfig.from_pretrained_cfg({"input_size": (3, 224, 224)})


def test_pixel_config_refuses_what_it_cannot_do():
    good = CONFIGS[0].to_dict()
    with pytest.raises(ValueError, match="square RGB"):
        PixelConfig.from_pretrained_cfg({"input_size": (3, 224, 196)})
    with pytest.raises(ValueError, match="must have the keys"):
        PixelConfig.from_dict({"size": 224})
    for key, value in [
        ("size", 0),
        ("mean", [1, 2]),
        ("mean", [1, {}, 2]),
        ("std", [1, 0, 1]),
        ("std", [1, math.nan, 1]),
        ("crop_pct", 0),
        ("crop_mode", "centre"),
    ]:
        with pytest.raises(ValueError, match=key):
            PixelConfig.from_dict(good | {key: value})


def test_real_photos(real_data: Path | None):
    if real_data is None:
        pytest.skip("real photos not present")
    paths = find_images([real_data / "coco-6k-144" / "val2014"]).images
    assert len(paths) > 100
    for path in paths[:100]:
        assert load_image(path).size == (144, 144)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "F", "CMYK"])
def test_large_pictures_are_converted_in_bands_to_the_same(mode: str, monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(0).integers(0, 65536, (60, 50), dtype=np.uint16)
    image = {
        "I;16": lambda: Image.fromarray(values),
        "F": lambda: Image.fromarray(values.astype(np.float32) * -3),
    }.get(mode, lambda: noise().convert("RGBA").convert(mode))()
    if mode == "P":
        image.info["transparency"] = 7
    whole = load_image(image)
    monkeypatch.setattr("vlcap.data.images.BAND", 7 * image.width)
    assert load_image(image).tobytes() == whole.tobytes()


def test_formats_that_take_more_memory_have_a_lower_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(images.MAX_PIXELS_OF, "WEBP", 100)
    with pytest.raises(ImageError, match=r"too large.*limit is 0\.0001 million"):
        load_image(encode(noise(), "WEBP"))
    load_image(encode(noise(), "PNG"))


@pytest.mark.timeout(20)
def test_devices_and_pipes_are_not_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    for path in find_images([tmp_path]).images:
        with pytest.raises(ImageError, match=r"(pipe|endless)\.jpg: a device or a pipe"):
            load_image(path)
