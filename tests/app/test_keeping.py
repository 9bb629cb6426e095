"""`vlcap caption --out` and `--sidecar`: what is kept, what is refused, and runs that are killed."""

import csv
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pyarrow.parquet
import pytest

from app import cli, loading
from tests.support import drawings
from tests.support.command import run_forked, vlcap_on_two
from vlcap.bulk import table
from vlcap.bulk.journal import Journal, Journals
from vlcap.bulk.sidecars import Sidecars
from vlcap.files.writing import replacing

REPOSITORY = Path(__file__).parents[2]
COLUMNS = ["image", "caption", "score", "budget", "problem"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    for number in range(10):
        drawings.draw(number).save(folder / f"{number:02}.png")
    (folder / "05.png").write_text("no photo")
    return folder


@pytest.fixture
def photos(drawn, tmp_path):
    return Path(shutil.copytree(drawn, tmp_path / "photos"))


@pytest.fixture
def vlcap(captioner, captioner_folder, monkeypatch, capsys):
    """The command, in this process: (arguments) -> (status, standard output, standard error)."""
    monkeypatch.setattr(loading, "load", lambda *arguments, **settings: captioner)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(*arguments):
        words = ["vlcap", "caption", "--model", str(captioner_folder), "--batch-size", "3", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def rows_of(file):
    if file.suffix == ".parquet":
        return pyarrow.parquet.read_table(file).to_pylist()
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    with open(file, newline="") as opened:
        rows = list(csv.DictReader(opened))
    numbers = {"score": float, "budget": int}
    return [{k: (numbers[k](v) if v else None) if k in numbers else v for k, v in row.items()} for row in rows]


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".vlcap-written.jsonl")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_file_of_captions(vlcap, captioner, photos, suffix):
    file = photos.parent / f"captions{suffix}"
    status, printed, said = vlcap(photos, "--out", file)
    assert (status, printed) == (1, "")
    assert "9 captioned, 0 skipped, 1 unreadable" in said.splitlines()[-1]
    rows = rows_of(file)
    assert all(list(row) == COLUMNS for row in rows)
    assert [row["image"] for row in rows] == [f"photos/{number:02}.png" for number in range(10)]
    assert rows[5] == {
        "image": "photos/05.png",
        "caption": "",
        "score": None,
        "budget": None,
        "problem": rows[5]["problem"],
    }
    assert "not an image" in rows[5]["problem"]
    good = [row for row in rows if not row["problem"]]
    assert [row["caption"] for row in good] == captioner.caption([photos.parent / row["image"] for row in good])
    assert all(row["score"] < 0 and row["budget"] == captioner.default_budget for row in good)
    assert visible(photos.parent) == [file.name, "photos"]


def test_an_existing_file_is_refused_with_the_choices(vlcap, photos):
    file = photos.parent / "captions.csv"
    file.write_text("mine")
    status, _, said = vlcap(photos, "--out", file)
    assert status == 1
    assert all(f"--existing {choice}" in said for choice in ("skip", "append", "overwrite"))
    for choice in ("skip", "append", "overwrite"):
        status, _, said = vlcap(photos, "--out", file, "--existing", choice)
        assert status == 1 and str(file) in said
    assert file.read_text() == "mine" and visible(photos.parent) == ["captions.csv", "photos"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_existing_rows(vlcap, photos, suffix):
    file, whole = photos.parent / f"captions{suffix}", photos.parent / f"whole{suffix}"
    vlcap(photos, "--out", whole)
    vlcap(photos / "03.png", photos / "01.png", "--out", file)
    assert vlcap(photos, "--out", file, "--existing", "skip")[0] == 1
    by_image = {row["image"]: row for row in rows_of(whole)}
    order = [f"photos/{number:02}.png" for number in (3, 1, 0, 2, 4, 5, 6, 7, 8, 9)]
    assert rows_of(file) == [by_image[name] for name in order]

    before = file.read_bytes()
    assert vlcap(photos, "--out", file, "--existing", "append")[0] == 1  # the same captions: nothing is added
    assert rows_of(file) == [by_image[name] for name in order]
    assert file.read_bytes() == before or suffix == ".parquet"
    vlcap(photos / "01.png", "--out", file, "--existing", "append", "--prefix", "a photo: ")
    *old, new = rows_of(file)
    assert old == [by_image[name] for name in order]
    assert new["image"] == "photos/01.png" and new["caption"] == "a photo: " + by_image["photos/01.png"]["caption"]

    assert vlcap(photos, "--out", file, "--existing", "overwrite")[0] == 1
    assert file.read_bytes() == whole.read_bytes()


def test_rows_of_a_person(vlcap, photos):
    """`skip` and `append` leave every byte of a file that a person made or corrected; `overwrite` refuses it."""
    file = photos.parent / "captions.csv"
    mine = b'"image",caption,score,budget,problem\nphotos/00.png,"my own, caption",,,\nelsewhere.jpg,another,,,'
    file.write_bytes(mine)
    vlcap(photos, "--out", file, "--existing", "skip")
    assert file.read_bytes().startswith(mine + b"\n")
    assert [row["image"] for row in rows_of(file)].count("photos/00.png") == 1
    status, _, said = vlcap(photos, "--out", file, "--existing", "overwrite")
    assert status == 1 and "was not written by vlcap, or changed since" in said
    vlcap(photos / "00.png", "--out", file, "--existing", "append")
    assert next(row["caption"] for row in rows_of(file) if row["image"] == "photos/00.png") == "my own, caption"
    assert len(rows_of(file)) == 12


def test_several_captions_with_text_around(vlcap, photos):
    file = photos.parent / "captions.jsonl"
    around = ("--prefix", "a photo: ", "--suffix", ".")
    _, _, said = vlcap(photos / "00.png", photos / "01.png", "--out", file, "--count", 5, *around, "--beams", 2)
    assert "searching with 5 beams instead of 2" in said
    rows = rows_of(file)
    assert 2 <= len(rows) <= 10 and len({(row["image"], row["caption"]) for row in rows}) == len(rows)
    assert all(row["caption"].startswith("a photo: ") and row["caption"].endswith(".") for row in rows)
    _, printed, _ = vlcap(photos / "00.png", "--count", 5, *around)
    own = [row["caption"] for row in rows if row["image"] == "photos/00.png"]
    assert [line.partition(": ")[2] for line in printed.splitlines()] == own


def test_scores_below_the_limit(vlcap, photos):
    file = photos.parent / "all.jsonl"
    vlcap(photos, "--out", file)
    scores = sorted(row["score"] for row in rows_of(file) if not row["problem"])
    limit = scores[4]
    some = photos.parent / "some.jsonl"
    _, _, said = vlcap(photos, "--out", some, "--min-score", limit)
    assert "4 captions below --min-score are left out, all those of 4 photos among them" in said
    for row, full in zip(rows_of(some), rows_of(file), strict=True):
        low = full["score"] is not None and full["score"] < limit
        assert row == ({**full, "caption": ""} if low else full)
    vlcap(photos, "--sidecar", ".txt", "--min-score", limit)
    assert len(list(photos.glob("*.txt"))) == 5


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".txt", ".caption", ".json"])
def test_files_beside_photos(vlcap, captioner, photos, suffix):
    (photos / f"03{suffix}").write_text("mine")
    status, printed, said = vlcap(photos, "--sidecar", suffix)
    assert (status, printed) == (1, "")
    assert "8 captioned, 1 skipped, 1 unreadable" in said.splitlines()[-1] and "not images" not in said
    assert (photos / f"03{suffix}").read_text() == "mine" and not (photos / f"05{suffix}").exists()

    def texts(number):
        text = (photos / f"{number}{suffix}").read_text()
        return [each["caption"] for each in json.loads(text)["captions"]] if suffix == ".json" else text.splitlines()

    expected = captioner.caption([photos / "00.png"])
    assert texts("00") == expected
    content = {path.name: path.read_bytes() for path in photos.iterdir()}
    vlcap(photos, "--sidecar", suffix)
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == content
    for choice in ("overwrite", "append"):
        status, _, said = vlcap(photos, "--sidecar", suffix, "--existing", choice, "--prefix", "a photo: ")
        if choice == "append" and suffix != ".json":
            assert (photos / f"03{suffix}").read_text().startswith("mine\na photo: ")
            continue
        assert status == 1 and f"03{suffix}" in said  # refused as a whole: a person wrote it
        assert {path.name: path.read_bytes() for path in photos.iterdir()} == content
        (photos / f"03{suffix}").rename(photos / "mine.md")
        vlcap(photos, "--sidecar", suffix, "--existing", choice, "--prefix", "a photo: ")
        dressed = [f"a photo: {text}" for text in expected]
        assert texts("00") == (dressed if choice == "overwrite" else expected + dressed)
        (photos / "mine.md").rename(photos / f"03{suffix}")
        vlcap(photos, "--sidecar", suffix, "--existing", choice)
        for path in (photos / name for name in content if name != f"03{suffix}"):
            path.write_bytes(content[path.name])


SIDECARS = [".txt", ".json"]


def interrupted(run, monkeypatch, groups):
    """Runs a command that ends after so many groups have been written."""
    add = Sidecars.add

    def stop(self, group):
        nonlocal groups
        if not groups:
            raise KeyboardInterrupt
        groups -= 1
        add(self, group)

    with monkeypatch.context() as patch:
        patch.setattr(Sidecars, "add", stop)
        assert run()[0] == 130


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["overwrite", "append"])
@pytest.mark.parametrize("suffix", SIDECARS)
def test_files_that_exist_are_not_captioned_twice(vlcap, photos, monkeypatch, suffix, choice):
    """The run that goes on captions what is missing; a run with other settings is refused."""
    vlcap(photos, "--sidecar", suffix)
    command = (photos, "--sidecar", suffix, "--existing", choice, "--prefix", "a photo: ", "--batch-size", 2)
    interrupted(lambda: vlcap(*command), monkeypatch, groups=3)
    status, _, said = vlcap(*command[:-4])
    assert status == 1 and "other settings (prefix 'a photo: ', now '')" in said
    status, _, said = vlcap(*command)
    assert "9 captioned (5 of them by an interrupted run), 0 skipped, 1 unreadable" in said and status == 1
    whole = [(photos / f"{number:02}{suffix}").read_text().count("a photo: ") for number in range(10) if number != 5]
    assert whole == [1] * 9 and not list(photos.glob(".vlcap-sidecars*"))


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["skip", "overwrite"])
def test_what_a_person_writes_during_the_run_stays(vlcap, photos, monkeypatch, choice):
    if choice == "overwrite":
        vlcap(photos, "--sidecar", ".txt")
    add = Sidecars.add

    def meanwhile(self, group):
        (photos / "01.txt").write_text("mine")
        add(self, group)

    monkeypatch.setattr(Sidecars, "add", meanwhile)
    _, _, said = vlcap(photos, "--sidecar", ".txt", "--existing", choice)
    assert (photos / "01.txt").read_text() == "mine"
    assert "01.txt: was made or changed during the run: left as it is" in said


@pytest.mark.slow
def test_overwriting_leaves_no_caption_that_is_left_out(vlcap, photos):
    vlcap(photos, "--sidecar", ".txt")
    (photos / "07.txt").rename(photos / "07.md")
    _, _, said = vlcap(photos, "--sidecar", ".txt", "--existing", "overwrite", "--min-score", 0)
    assert "9 captions below --min-score" in said and not list(photos.glob("*.txt"))


@pytest.mark.slow
def test_captions_are_added_to_texts_in_utf8_alone(vlcap, photos, captioner):
    [caption] = captioner.caption([photos / "00.png"])
    for content in (caption.encode("utf-16"), caption.encode("utf-16-le"), b"\x00\xff\x01binary"):
        (photos / "00.txt").write_bytes(content)
        status, _, said = vlcap(photos, "--sidecar", ".txt", "--existing", "append")
        assert status == 1 and "00.txt: captions cannot be added to it" in said
        assert (photos / "00.txt").read_bytes() == content
    (photos / "00.txt").write_text(f"{caption}\r\n", encoding="utf-8-sig", newline="")
    before = (photos / "00.txt").read_bytes()
    vlcap(photos, "--sidecar", ".txt", "--existing", "append")
    assert (photos / "00.txt").read_bytes() == before


@pytest.mark.slow
def test_two_runs_beside_the_same_photos(vlcap, photos):
    """The second is refused, and deletes nothing that the first is writing."""
    first = Sidecars([photos / "00.png"], ".txt")
    assert vlcap(photos, "--sidecar", ".txt")[0] == 1
    first.close()
    with replacing(photos / "00.txt") as file:
        file.write("mine")
        Sidecars([photos / "00.png"], ".txt").close()
    assert (photos / "00.txt").read_text() == "mine"
    left = photos / ".01.txt.0123abcd.tmp"  # of a killed run
    left.touch()
    Sidecars([photos / "01.png"], ".txt").close()
    assert not left.exists()


@pytest.mark.slow
def test_a_run_that_goes_on_counts_what_is_left_out(vlcap, photos, monkeypatch):
    file = photos.parent / "captions.jsonl"
    vlcap(photos, "--out", file)
    scores = sorted(row["score"] for row in rows_of(file) if not row["problem"])
    file.unlink()
    add = Journal.add

    def stop(self, group):
        if self._file.seek(0, os.SEEK_END) > 900:
            raise KeyboardInterrupt
        add(self, group)

    command = (photos, "--out", file, "--min-score", scores[4], "--batch-size", 2)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", stop)
        assert vlcap(*command)[0] == 130
    _, _, said = vlcap(*command)
    assert "4 captions below --min-score are left out, all those of 4 photos among them" in said
    assert ": 5 captioned (" in said and "1 unreadable" in said


def test_photos_that_would_share_a_file(vlcap, photos):
    shutil.copy(photos / "00.png", photos / "00.gif")
    status, _, said = vlcap(photos, "--sidecar", ".txt")
    assert status == 1 and "00.gif" in said and "would share" in said and not list(photos.glob("*.txt"))
    shutil.move(photos / "00.gif", photos / "20.txt")  # a photo with this suffix, named itself
    status, _, said = vlcap(photos / "20.txt", "--sidecar", ".txt")
    assert status == 1 and "is a photo itself" in said
    assert (photos / "20.txt").read_bytes() == (photos / "00.png").read_bytes()


ODD = [
    "=1+1.png",
    "a b.png",
    "two\nlines.png",
    'quote",comma.png',
    "-dash.png",
    b"\xff\xfe.png".decode(errors="surrogateescape"),
]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_odd_names(vlcap, photos, suffix):
    for name in ODD:
        shutil.copy(photos / "00.png", photos / name)
    file = photos / f"captions{suffix}"
    vlcap(photos, "--out", file)
    names = {row["image"] for row in rows_of(file)}
    assert names >= {"./=1+1.png", "a b.png", "two\nlines.png", 'quote",comma.png', "./-dash.png", "\\xff\\xfe.png"}
    before = rows_of(file)
    assert vlcap(photos, "--out", file, "--existing", "skip")[0] == 0
    assert rows_of(file) == before
    vlcap(photos, "--sidecar", ".json")
    assert all((photos / name).with_suffix(".json").is_file() for name in ODD)


@pytest.mark.slow
def test_usage(vlcap, photos):
    for words in (
        ("--out", "a.csv", "--sidecar", ".txt"),
        ("--out", "a.csv", "--json"),
        ("--existing", "skip"),
        ("--prefix", "two\nlines"),
        ("--min-score", "nan"),
        ("--existing", "maybe", "--out", "a.csv"),
    ):
        assert vlcap(photos, *words)[0] == 2, words
    for words in (("--out", photos / "a.xlsx"), ("--sidecar", ".md"), ("--out", photos)):
        assert vlcap(photos, *words)[0] == 1, words


@pytest.mark.slow
def test_what_was_kept_of_an_interrupted_run(vlcap, photos, monkeypatch):
    """At each step of the end, and in the middle: nothing twice, nothing lost, and other settings are refused."""
    whole = photos.parent / "whole.csv"
    vlcap(photos, "--out", whole)
    file = photos.parent / "captions.csv"
    written = Journal.add

    def stop(*arguments, **more):
        raise KeyboardInterrupt

    def twice(self, rows):
        if self._file.seek(0, os.SEEK_END) > 900:
            self._file.write(b'{"image": "photos/0')  # cut in the middle of a line
            raise KeyboardInterrupt
        written(self, rows)

    for where, name, fault in (
        (Journal, "add", twice),
        (table, "rendered", stop),
        (Journal, "finish", stop),
        (table, "replacing", stop),
        (Journals, "delete", stop),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, fault)
            assert vlcap(photos, "--out", file)[0] == 130
        assert file.exists() == (name == "delete")
        status, _, said = vlcap(photos, "--out", file, "--budget", 2)
        assert status == 1 and "other settings (budget 3, now 2)" in said
        status, _, said = vlcap(photos, "--out", file)
        assert status == 1 and "9 captioned" in said and "1 unreadable" in said
        assert file.read_bytes() == whole.read_bytes()
        assert visible(photos.parent) == ["captions.csv", "photos", "whole.csv"]
        file.unlink()


def test_a_journal_of_somebody_else(vlcap, photos):
    other = photos.parent / "captions.csv.unfinished-0.jsonl"
    for content in ('{"mine": 1}\n', "mine", "mine\n"):
        other.write_text(content)
        assert vlcap(photos, "--out", photos.parent / "captions.csv")[0] == 1
        assert other.read_text() == content


KILLED = """
import os, random, signal, sys
from app import cli, loading
folder, seed, *words = sys.argv[1:]
captioner = loading.load(folder)
loading.load = lambda *unused, **settings: captioner

def start(deadly):
    # A run that kills itself at one of the moments at which files are written, drawn at random; or that is not killed.
    if (child := os.fork()) == 0:
        left = deadly
        def at_a_moment(real):
            def before(*arguments, **settings):
                nonlocal left
                left -= not str(arguments[0]).endswith(".lock")  # deleted last, when the files are complete
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **settings)
            return before
        for name in ("fsync", "replace", "unlink"):
            setattr(os, name, at_a_moment(getattr(os, name)))
        sys.argv = ["vlcap", "caption", *words, "--model", folder, "--batch-size", "1"]
        try:
            cli.main()
        except SystemExit as end:
            os._exit(end.code or 0)
        os._exit(9)
    return os.waitpid(child, 0)[1]

random.seed(int(seed))
kills = 0
while os.WIFSIGNALED(ended := start(random.randint(1, 5 + kills // 10))):
    kills += 1
assert ended == 0
print(kills)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "words",
    [["--out", "F.csv"], ["--out", "F.parquet"], ["--sidecar", ".json"], ["--sidecar", ".txt", "--existing", "append"]],
    ids=str,
)
def test_ten_kills_change_nothing(vlcap, captioner_folder, tmp_path, words):
    """Ten and more: each run is killed a few writes further, at a write, a rename or a deletion, up to the last one."""
    count = 4 if words[0] == "--sidecar" else 12
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for number in range(count):
            drawings.draw(number).save(tmp_path / name / f"{number:02}.png")

    def arguments(name):
        place = str(tmp_path / name / words[1]) if words[0] == "--out" else words[1]
        return [str(tmp_path / name), words[0], place, *words[2:]]

    assert vlcap(*arguments("one"), "--batch-size", 1)[0] == 0
    done = run_forked(KILLED, captioner_folder, "1", *arguments("two"))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 10, done.stdout
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if not path.name.startswith(".vlcap")}
        for name in ("one", "two")
    )
    assert two == one and len(one) == (2 * count if words[0] == "--sidecar" else count + 1)


WITHOUT_TORCH = """
import runpy, sys
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__")
finally:
    loaded = {"torch", "transformers", "timm", "datasets", "pandas", "ray"} & set(sys.modules)
    assert not loaded, loaded
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_onnx_runtime_keeps_captions_without_torch(captioner_folder, graphs_cache, photos, monkeypatch):
    monkeypatch.setenv("VLCAP_CACHE", str(graphs_cache))
    monkeypatch.setenv("VLCAP_ENGINE", "onnx")
    for words in (["--out", "a.csv"], ["--out", "a.parquet", "--count", "2"], ["--sidecar", ".json"]):
        command = ["app.cli", "caption", str(photos), "--model", str(captioner_folder), *words]
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, *command],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            cwd=photos.parent,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1 and "9 captioned, 0 skipped, 1 unreadable" in done.stderr
        assert "AssertionError" not in done.stderr, done.stderr
    assert len(rows_of(photos.parent / "a.csv")) == 10


@pytest.mark.slow
def test_two_processes_share_the_photos(vlcap, captioner_folder, tmp_path):
    """Of files beside photos. The next test does the same with one file."""
    for number in range(5):
        drawings.draw(number).save(tmp_path / f"{number:02}.png")
    vlcap_on_two("caption", tmp_path, "--model", captioner_folder, "--batch-size", 1, "--sidecar", ".txt")
    shared = {path: path.read_bytes() for path in tmp_path.glob("*.txt")}
    assert len(shared) == 5
    for path in shared:
        path.unlink()
    vlcap(tmp_path, "--sidecar", ".txt", "--batch-size", 1)
    assert {path: path.read_bytes() for path in shared} == shared


def torchrun(*arguments, processes=2):
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            str(processes),
            "--no-python",  # as the docs have it: torchrun --no-python vlcap
            sys.executable,
            "-m",
            "app.cli",
            *map(str, arguments),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_one_of_two_processes_is_killed(vlcap, captioner_folder, tmp_path):
    """The run ends, and the same command with one process gives what an uninterrupted run gives."""
    for number in range(6):
        drawings.draw(number).save(tmp_path / f"{number:02}.png")
    vlcap(tmp_path, "--out", tmp_path / "whole.csv", "--batch-size", 1)
    fault = tmp_path / "sitecustomize.py"  # the second process is killed when it has captioned two groups
    fault.write_text(
        "import os, signal\n"
        "if os.environ.get('RANK') == '1':\n"
        "    from vlcap.bulk.journal import Journal\n"
        "    add, groups = Journal.add, []\n"
        "    def dying(self, rows):\n"
        "        add(self, rows)\n"
        "        groups.append(rows)\n"
        "        if len(groups) == 2:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "    Journal.add = dying\n"
    )
    file = tmp_path / "killed.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{REPOSITORY}")
        with pytest.raises(subprocess.CalledProcessError):
            torchrun("caption", tmp_path, "--model", captioner_folder, "--batch-size", 1, "--out", file)
    fault.unlink()
    assert not file.exists()
    journals = [path.read_text().splitlines() for path in sorted(tmp_path.glob(f"{file.name}.unfinished-*"))]
    assert [len(lines) - 1 for lines in journals][1] == 2 and len(journals) == 2
    status, _, said = vlcap(tmp_path, "--out", file, "--batch-size", 1)  # one process goes on where two were
    assert status == 0 and "of them by an interrupted run" in said
    assert file.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not list(tmp_path.glob("*unfinished*"))


def test_budget_auto(vlcap, captioner, captioner_folder, photos, monkeypatch):
    assert vlcap(photos, "--budget", "0")[0] == vlcap(photos, "--budget", "many")[0] == 2
    status, _, said = vlcap(photos, "--budget", "auto")
    assert status == 1 and "vlcap auto-budget writes one" in said
    good = [path for path in sorted(photos.iterdir()) if path.name != "05.png"]
    scores = sorted(each.score for each in captioner.caption_pixels(captioner.preprocess(good), 2))
    rule = {"budgets": [2, 3], "threshold": (scores[3] + scores[4]) / 2}
    (photos.parent / "budget_auto.json").write_text(json.dumps(rule))
    monkeypatch.setattr(loading, "folder_of", lambda model: photos.parent)
    file = photos.parent / "captions.jsonl"
    vlcap(photos, "--budget", "auto", "--out", file)
    assert [row["budget"] for row in rows_of(file) if not row["problem"]].count(3) == 4
