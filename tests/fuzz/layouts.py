"""Folders as people have them on their disks, with commands run over them. Fuzzing of bytes does not find their faults.

Albums with links and names in many scripts, the COCO JSON of labeling tools, class folders that differ between splits,
and runs of several commands in one folder, while a person writes files there too. These promises are checked: a photo
gets the id and the class that it was drawn for; every file is captioned, reported or counted; and every file that was
there before is there afterwards, byte for byte.

    python -m tests.fuzz layouts                       # 2,000 layouts
    FUZZ_TRAINING=1 python -m tests.fuzz layouts       # with smoke runs of the trainers among the commands
"""

import contextlib
import io
import json
import os
import random
import re
import sys
import warnings
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import normalize
from urllib.parse import quote

from PIL import Image

import app.cli
import app.loading
import vlcap.evaluation.metrics
from train.labels import read_labeled
from vlcap.captioner import Captioner
from vlcap.data.captions import read_captions
from vlcap.data.finding import SUFFIXES, UNREAD_SUFFIXES, VIDEO_SUFFIXES
from vlcap.data.images import load_image

from . import models

TRAINING = bool(os.environ.get("FUZZ_TRAINING"))
WORDS = (
    "photo",
    "Ünïcödé",
    "Мой отпуск",
    "写真",
    "صورة",
    "தமிழ்",
    "🦆",
    "e\u0301te\u0301",
    "été",
    "with space",
    "a=b",
    "100%",
    "[x] (1)",
    "it's",
    "-dash",
    "comma, name",
    "new\nline",
    'quote"',
    "tab\there",
    "CON",
    "\u202eevil",
    "x" * 100,
    os.fsdecode(b"caf\xe9"),
    "back\\slash",
    "*",
    "?",
    "~",
    "$HOME",
    "smoke",
    "0",
)
KINDS = (".png", ".PNG", ".bmp", ".tif", ".ppm", ".gif")
OTHERS = (
    "notes.txt",
    "Thumbs.db",
    "README",
    "raw.CR2",
    "picture.jxl",
    "film.mov",
    ".hidden.png",
    ".DS_Store",
    "a.json",
)


def color(key: object) -> tuple[int, int, int]:
    chance = random.Random(ascii(key))  # ascii: a name may not be valid text
    return tuple(chance.randrange(0, 256, 5) for _ in range(3))  # type: ignore[return-value]


def draw(path: Path, key: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    Image.new("RGB", (12, 10), color(key)).save(
        data, {".tif": "TIFF", ".ppm": "PPM"}.get(path.suffix.lower(), path.suffix[1:].upper() or "PNG")
    )
    path.write_bytes(data.getvalue())


@cache
def captioner() -> Captioner:
    """A small captioner, and metrics without Java: neither is tested here."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name, data in models.seed()["captioner"].items():
            Path(folder, name).write_bytes(data)
        loaded = Captioner.from_pretrained(folder, engine="pytorch", device="cpu")
    for name, value in {
        "find_java": lambda version="": "java",
        "ptb_tokenize": lambda texts: [" ".join(re.findall(r"\w+", text.lower())) for text in texts],
    }.items():
        setattr(vlcap.evaluation.metrics, name, value)
    app.loading.load = lambda *unused, **also: loaded
    return loaded


def make(rng: random.Random, folder: Path) -> Path:
    """Writes a layout into `folder`/here, and beside it a plan: what to do with it, and the result to expect."""
    here = folder / "here"
    here.mkdir()
    plan = rng.choice((album, labeling, classes, runs, runs))(rng, here)
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


def read(folder: Path) -> None:
    plan, here = json.loads((folder / "plan.json").read_text()), folder / "here"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        {"album": read_album, "labeling": read_labeling, "classes": read_classes, "runs": do_runs}[plan["kind"]](
            plan, here
        )


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Bytes of every file below a folder, and target of every link."""
    found: dict[str, bytes | str] = {}
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(parent, name)
            if os.path.islink(path):
                found[path] = os.readlink(path)
            elif os.path.isfile(path):
                found[path] = Path(path).read_bytes()
    return found


def run(*arguments: object) -> tuple[int, list[str], list[str]]:
    """Runs the command: its exit status and the lines of its two streams."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    before, status = sys.argv, 0
    sys.argv = ["vlcap", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            app.cli.main()
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.argv = before
    lines = []
    for stream in (out, err):
        stream.flush()
        lines.append(stream.buffer.getvalue().decode("utf-8").split("\n")[:-1])  # type: ignore[attr-defined]
    assert status in (0, 1, 2) and not any("Traceback" in line for line in lines[1]), lines[1]
    assert status == 0 or lines[1], f"status {status} without a word"
    return status, *lines


# Albums


def album(rng: random.Random, here: Path) -> dict[str, Any]:
    top = here / "album"
    folders = [top, here / "elsewhere"]
    for folder in folders:
        folder.mkdir()
    for _ in range(rng.randrange(5)):
        folder = rng.choice(folders) / rng.choice(WORDS)
        if not os.path.lexists(folder):
            folder.mkdir()
            folders.append(folder)
    for number in range(rng.randrange(1, 12)):
        path = rng.choice(folders) / f"{number}{rng.choice(WORDS)}{rng.choice(KINDS)}"
        match rng.randrange(10):
            case 0 | 1:
                other = path.with_name(rng.choice(OTHERS))
                if not os.path.lexists(other):
                    other.write_bytes(b"something else")
            case 2:
                path.write_bytes(b"no picture")
            case 3:
                path.symlink_to(rng.choice((*here.rglob("*.png"), Path("nowhere"), Path("/dev/zero"))))
            case 4 | 5:
                target = rng.choice((*folders, here, here.parent, Path("/"), Path("."), Path("..")))
                (path.parent / f"{number} link").symlink_to(target)
            case _:
                draw(path, number)
    return {"kind": "album"}


def read_album(plan: dict[str, Any], here: Path) -> None:
    before, top = snapshot(here), here / "album"
    there = reachable(top)
    read = SUFFIXES | VIDEO_SUFFIXES
    pictures = {(folder, name) for folder, name in there if os.path.splitext(name)[1].lower() in read}
    status, out, err = run("caption", top, "--json")
    said = {
        (os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        for path in (json.loads(line)["image"] for line in out)
    }
    assert said <= pictures and len(said) == len(out)
    counted = [int(found[1]) for line in err if (found := re.match(r"vlcap: skipped (\d+) file", line))]
    assert sum(counted) == len(there) - len(pictures), (err, there)
    assert len(err) - len(counted) == (len(pictures) - len(said) if pictures else 1), (err, pictures - said)
    unread = any(os.path.splitext(name)[1].lower() in UNREAD_SUFFIXES for _, name in there)
    assert (status == 0) == (said == pictures != set() and not unread), (status, err)
    assert snapshot(here) == before


def reachable(top: Path) -> set[tuple[str, str]]:
    """The files that a folder stands for, each by its real folder and its name."""
    found, known, waiting = set(), set(), [os.path.realpath(top)]
    while waiting:
        folder = waiting.pop()
        if folder in known:
            continue
        known.add(folder)
        for entry in os.scandir(folder):
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                found.add((folder, entry.name))
            else:
                target = os.path.realpath(entry.path)
                above = entry.is_symlink() and any(
                    PurePosixPath(each).is_relative_to(target) for each in (folder, os.path.realpath(top))
                )
                waiting += [] if above else [target]
    return found


# Labeling tools

FORMS = (
    lambda name: name,
    lambda name: f"./{name}",
    lambda name: f"images/{name}",
    lambda name: name.replace("/", "\\"),
    lambda name: "..\\..\\media\\upload\\1\\" + name.replace("/", "\\"),
    lambda name: "C:\\data\\" + name.replace("/", "\\"),
    lambda name: f"/home/ann/photos/{name}",
    lambda name: f"../{name}",
    lambda name: f"https://host/some%20where/{quote(name)}?size=large#top",
    lambda name: normalize("NFD", name),
    lambda name: normalize("NFC", name),
    lambda name: name.rpartition("/")[2],
)


def labeling(rng: random.Random, here: Path) -> dict[str, Any]:
    root, form = here / "set", rng.choice(FORMS)
    words = [word for word in WORDS if "\\" not in word and word.isprintable()]
    place = rng.choice(("", "images", "val2017", "val", "images/val2017"))
    flat = rng.random() < 0.4
    images, annotations = [], []
    for number in range(1, rng.randrange(2, 7)):
        camera = rng.choice(("", "cam1/", f"{rng.choice(words)}/"))
        name = camera + rng.choice((f"{number}{rng.choice(words)}.png", "0001.png", "0002.png"))
        images.append({"id": number, "file_name": form(name)})
        annotations.append({"id": number, "image_id": number, "caption": f"photo {number}"})
        if rng.random() < 0.95:
            draw(root / place / (name.rpartition("/")[2] if flat else name), number)
    draw(here / "0001.png", "outside")  # the place that ../0001.png would lead to
    file = rng.choice(("annotations/captions_val2017.json", "annotations/captions_val_2017.json", "captions_val.json"))
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"images": images, "annotations": annotations}, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.3:
        file, content = (
            "dataset.json",
            json.dumps(
                {
                    "images": [
                        {
                            "filename": image["file_name"],
                            "imgid": image["id"],
                            "split": rng.choice(("val", "train")),
                            "sentences": [{"raw": "a photo"}],
                        }
                        for image in images
                    ]
                }
            ),
        )
    (root / file).write_text(content, encoding="utf-8")
    # Of two photos copied to one place only the later one is there, and nobody can know which one it is.
    return {"kind": "labeling", "limit": rng.choice((None, 1, 2))}


def read_labeling(plan: dict[str, Any], here: Path) -> None:
    before = snapshot(here)
    try:
        found = read_captions(here / "set", "val", limit=plan["limit"])
        for i, image_id in enumerate(found.image_ids):
            assert found.image(i).getpixel((0, 0)) == color(image_id), f"{found.files[i]} isn't photo {image_id}"
        assert len(set(found.files)) == len(found)
    finally:
        assert snapshot(here) == before


# Class folders


def classes(rng: random.Random, here: Path) -> dict[str, Any]:
    known = rng.sample(WORDS, k=rng.randrange(1, 5))
    for split in ("train", rng.choice(("val", "validation"))):
        for name in known if rng.random() < 0.6 else rng.sample(WORDS, k=rng.randrange(1, 5)):
            folder = here / split / normalize(rng.choice(("NFC", "NFD")), name)
            for number in range(rng.randrange(3)):
                draw(folder / f"{number}{rng.choice(KINDS)}", normalize("NFC", name))
            if rng.random() < 0.2:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / rng.choice(OTHERS)).write_bytes(b"something else")
    return {"kind": "classes"}


def read_classes(plan: dict[str, Any], here: Path) -> None:
    before = snapshot(here)
    try:
        for split in ("train", "val"):
            found = read_labeled(str(here), split)
            for row, target in enumerate(found.targets.tolist()):
                assert found.load(row).getpixel((0, 0)) == color(normalize("NFC", found.classes[target]))
    finally:
        assert snapshot(here) == before


# Commands on one folder

PLACES = ("out", ".", "data", "photos", "new/deep", "out/metrics.json", "smoke", "runs", "runs/fire", "..")
THEIRS = (
    "out/metrics.json",
    "out/predictions.json",
    "out/notes.txt",
    "maps.svg",
    "maps.png",
    "smoke/notes.txt",
    "metrics.json",
    "runs/smoke/fire/model.safetensors",
    "runs/fire/encoder/README.md",
    "runs/fire/captioner/config.json",
    "predictions.json",
    "data/predictions.json",
    "photos/metrics.json",
    "new",
    ".vlcap-results.json",
    "out/.vlcap-results.json",
)


def runs(rng: random.Random, here: Path) -> dict[str, Any]:
    photos = [here / "photos" / f"{number}{rng.choice(WORDS)}.png" for number in range(3)]
    for number, path in enumerate(photos):
        draw(path, number)
    (here / "data" / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        images, annotations = [], []
        for number in range(3):
            draw(here / "data" / split / f"{split}{number}.png", number)
            images.append({"id": number, "file_name": f"{split}{number}.png"})
            annotations += [{"image_id": number, "caption": f"{text} {number}"} for text in ("a photo", "one of three")]
        (here / "data" / "annotations" / f"captions_{split}.json").write_text(
            json.dumps({"images": images, "annotations": annotations})
        )
        for name in ("red", "blue"):
            draw(here / "classes" / split / name / "0.png", name)
    steps: list[list[str]] = []
    for _ in range(rng.randrange(2, 6)):
        place = rng.choice(PLACES)
        match rng.randrange(10 if TRAINING else 8):
            case 0 | 1 | 2:
                steps.append(["write", rng.choice(THEIRS)])
            case 3 | 4 | 5:
                steps.append(["evaluate", "--data", "data", "--split", "val", "--out", place, "--metric", "CIDEr"])
            case 6:
                picture = rng.choice(("maps.svg", "maps.png", os.path.relpath(photos[0], here), "out/notes.txt"))
                steps.append(["attention", os.path.relpath(photos[0], here), f"--out={picture}"])
            case 7:
                steps.append(["caption", "photos", *rng.sample(["--json", "--batch-size=2"], k=1)])
            case 8:
                steps.append(["train", "classifier", "--data", "classes", "--smoke", "--out", place])
            case _:
                steps.append(["train", "captioner", "--data", "data", "--smoke", "--out", place])
    return {"kind": "runs", "steps": steps}


def do_runs(plan: dict[str, Any], here: Path) -> None:
    theirs = snapshot(here)
    home = os.getcwd()
    os.chdir(here)
    try:
        for number, (command, *arguments) in enumerate(plan["steps"]):
            if command == "write":
                with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
                    path = here / arguments[0]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(f"mine, of step {number}")
                    theirs[str(path)] = path.read_bytes()
            else:
                run(command, *arguments)
            now = snapshot(here)
            for path, content in theirs.items():
                assert now.get(path) == content, f"{path} isn't as it was, after step {number} of {plan['steps']}"
    finally:
        os.chdir(home)
    for photo in (here / "photos").glob("*.png"):
        load_image(photo)


def prepare() -> None:
    captioner()
