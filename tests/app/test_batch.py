"""The demo's batches of photos: files and archives from strangers."""

import csv
import io
import json
import struct
import zipfile

import pytest

from app.demo import batch
from app.demo.batch import Row, caption_batch, write_csv, write_jsonl, write_sidecars
from tests.support import drawings
from vlcap.data import archives
from vlcap.data.names import printable


def png(number: int) -> bytes:
    file = io.BytesIO()
    drawings.draw(number).save(file, "PNG")
    return file.getvalue()


def archive(path, entries: dict[str, bytes], **options):
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return path


def rows_of(captioner, *paths):
    return [row for row, _ in caption_batch(captioner, [(path.name, path) for path in paths], budget=2, num_beams=1)]


def test_photos_and_archives_in_their_order(captioner, tmp_path):
    (tmp_path / "first.png").write_bytes(png(0))
    folder = archive(
        tmp_path / "more.zip",
        {"b/one.png": png(1), "a.png": png(2), "b/": b"", "__MACOSX/a.png": b"x", "b/.DS_Store": b"x"},
    )
    found = list(caption_batch(captioner, [("first.png", tmp_path / "first.png"), ("more.zip", folder)], num_beams=1))
    assert [row.name for row, _ in found] == ["first.png", "b/one.png", "a.png"]
    assert {total for _, total in found} == {3}
    assert [row.caption for row, _ in found] == captioner.caption([drawings.draw(n) for n in range(3)], num_beams=1)
    assert all(row.tokens == 9 and row.ms > 0 and row.score < 0 and row.thumbnail.size == (64, 48) for row, _ in found)


def test_bad_ones_are_reported_each(captioner, tmp_path):
    (tmp_path / "words.jpg").write_text("no photo")
    inner = archive(tmp_path / "inner.zip", {"a.png": png(0)}).read_bytes()
    found = rows_of(
        captioner,
        tmp_path / "words.jpg",
        archive(
            tmp_path / "all.zip", {"half.png": png(0)[:300], "inner.png": inner, "empty.png": b"", "good.png": png(1)}
        ),
    )
    problems = {row.name: row.problem for row in found}
    assert problems["words.jpg"].startswith("not an image")
    assert problems["half.png"].startswith("cut short")
    assert problems["inner.png"] == "an archive in an archive"
    assert problems["empty.png"] == "the file is empty"
    assert problems["good.png"] == "" and found[-1].caption


def test_no_name_leads_anywhere(captioner, tmp_path):
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    path = archive(folder / "evil.zip", {"../../out.png": png(0), "/tmp/out.png": png(1), "a\u202egnp.png": png(2)})
    before = sorted(tmp_path.rglob("*"))
    found = rows_of(captioner, path)
    assert [row.name for row in found] == ["../../out.png", "/tmp/out.png", "a?gnp.png"]
    assert not any(row.problem for row in found)
    assert sorted(tmp_path.rglob("*")) == before


def test_bombs_end_at_the_limit(captioner, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 10_000)
    monkeypatch.setattr(archives, "MAX_ALL_BYTES", 25_000)
    entries = {f"{number}.png": bytes(1_000_000) for number in range(5)}
    bomb = archive(tmp_path / "bomb.zip", entries, compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 10_000
    problems = [row.problem for row in rows_of(captioner, bomb)]
    assert len(problems) == 4 and problems[0].startswith("too large")
    assert problems[-1].startswith("left out, with all files after it")


def test_only_so_many(captioner, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_PHOTOS", 2)
    found = rows_of(captioner, archive(tmp_path / "many.zip", {f"{number}.png": png(number) for number in range(5)}))
    assert [bool(row.problem) for row in found] == [False, False, True]
    assert "at most 2 photos per batch" in found[-1].problem
    monkeypatch.setattr(archives, "MAX_ENTRIES", 3)
    [row] = rows_of(captioner, tmp_path / "many.zip")
    assert "more than 3 entries" in row.problem


def test_what_is_no_photo_is_counted_once(captioner, tmp_path, monkeypatch):
    """Text files of data sets, and files that Windows adds, do not count towards the limit of photos."""
    monkeypatch.setattr(archives, "MAX_PHOTOS", 3)
    entries = {
        f"{number}.{kind}": png(number) if kind == "png" else b"text" for number in range(3) for kind in ("png", "txt")
    } | {"Thumbs.db": b"\xd0\xcf\x11\xe0", "README": b"read me"}
    files = [("pairs.zip", archive(tmp_path / "pairs.zip", entries))]
    found = list(caption_batch(captioner, files, budget=2, num_beams=1))
    assert [(row.name, not row.problem) for row, _ in found] == [
        ("0.png", True),
        ("1.png", True),
        ("2.png", True),
        ("pairs.zip", False),
    ]
    assert {total for _, total in found} == {4}
    assert found[-1][0].problem == (
        "skipped 5 files that are not images of a known format: 3 .txt, 1 .db, 1 without a suffix (first: 0.txt)"
    )
    [row] = rows_of(captioner, archive(tmp_path / "texts.zip", {"a.txt": b"a"}))
    assert row.problem.startswith("no photos in this archive: skipped 1 file that is not an image of a known format")


@pytest.mark.parametrize("damage", ["locked", "cut", "flipped", "empty"])
def test_damaged_archives(captioner, tmp_path, damage):
    path = archive(tmp_path / "a.zip", {} if damage == "empty" else {"a.png": png(0)})
    data = bytearray(path.read_bytes())
    if damage == "locked":  # only the flag, in both headers
        for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            at = data.index(signature) + offset
            data[at : at + 2] = struct.pack("<H", 1)
    elif damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[len(data) // 2] ^= 255
    path.write_bytes(data)
    [row] = rows_of(captioner, path)
    assert row.problem and not row.caption


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_packing_is_refused(captioner, tmp_path, packing):
    [row] = rows_of(captioner, archive(tmp_path / "a.zip", {"a.png": png(0)}, compression=packing))
    assert row.problem == "packed in an unusual way: zip it anew"


def test_sizes_are_not_believed(captioner, tmp_path, monkeypatch):
    """An archive that claims that its photos have ten bytes."""
    monkeypatch.setattr(archives, "MAX_BYTES", 10_000)
    path = archive(tmp_path / "a.zip", {"a.png": bytes(1_000_000)}, compression=zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(signature) + offset
        data[at : at + 4] = struct.pack("<I", 10)
    path.write_bytes(data)
    [row] = rows_of(captioner, path)
    assert row.problem and not row.caption


def test_a_batchs_pixels_are_bounded(captioner, tmp_path, monkeypatch):
    """D4: small files of large pictures, which would hold the line for minutes."""
    monkeypatch.setattr(batch, "MAX_PIXELS", 10_000)
    entries = {f"{number}.png": png(number) for number in range(5)}  # 64 x 48 pixels each
    found = rows_of(captioner, archive(tmp_path / "many.zip", entries))
    assert [bool(row.problem) for row in found] == [False, False, False, True]
    assert found[-1].problem == "left out, with all files after it: at most 0.01 million pixels per batch"


def test_every_cell_is_quoted(tmp_path):
    """D10: where a spreadsheet splits at semicolons, `;=8.jpg` would become a formula in a cell of its own."""
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as file:
        names = (";=8.jpg", " =1.jpg", "\t=2", "\uff1d3")
        write_csv([Row(name, caption="a;=dog", tokens=9, ms=1.26, score=-0.5) for name in names], file)
    first, *lines = (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()
    assert first == '"photo","caption","problem","tokens","ms","score"'
    assert lines[0] == '";\'=8.jpg","a;\'=dog","","9","1.3","-0.5"'
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file, delimiter=";") for cell in row]
    assert not any(cell.startswith("=") for cell in cells)
    assert [line[1] for line in lines[1:]] == ["'"] * 3


def test_csv_runs_nothing(tmp_path):
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as file:
        write_csv([Row("=1+1.png", caption='a "dog", running', tokens=9, ms=1.26), Row("b.png", problem="no")], file)
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["photo", "caption", "problem", "tokens", "ms", "score"],
            ["'=1+1.png", 'a "dog", running', "", "9", "1.3", ""],
            ["b.png", "", "no", "", "", ""],
        ]


def test_json_lines_have_the_columns_of_the_table():
    file = io.StringIO()
    write_jsonl([Row("\u732b.png", caption="a cat", tokens=9, ms=1.26, score=-0.5), Row("b.png", problem="no")], file)
    found = [json.loads(line) for line in file.getvalue().splitlines()]
    assert found[0] == dict(photo="\u732b.png", caption="a cat", problem=None, tokens=9, ms=1.26, score=-0.5)
    assert found[1] == dict(photo="b.png", caption=None, problem="no", tokens=None, ms=None, score=None)


def test_a_text_file_for_each_photo(tmp_path):
    """Names come from strangers' archives: none leads out of the folder, and none takes another's place."""
    names = ["a/one.jpg", "a/one.png", "a/ONE.png", "../../out.png", "/tmp/out.jpg", "C:\\x\\y.png", "..", "bad.png"]
    rows = [Row(name, caption=f"of {name}") for name in names[:-1]] + [Row("bad.png", problem="no")]
    with open(tmp_path / "texts.zip", "wb") as file:
        write_sidecars(rows, file)
    with zipfile.ZipFile(tmp_path / "texts.zip") as texts:
        found = {name: texts.read(name).decode() for name in texts.namelist()}
    wanted = ["a/one.txt", "a/one.png.txt", "a/ONE.png.2.txt", "out.txt", "tmp/out.txt", "C_/x/y.txt", "photo.txt"]
    assert list(found) == wanted
    assert list(found.values()) == [f"of {name}\n" for name in names[:-1]]


def test_names_stay_on_one_line():
    assert printable("a\nb\x1b[31m.png") == "a?b?[31m.png"
