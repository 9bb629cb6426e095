"""`vlcap caption --ray`: sources, shards, restarts, and a cluster of two machines that loses one of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import psutil
import pyarrow.parquet
import pytest

from app import cli, loading
from tests.support import drawings
from vlcap.bulk.cluster import ClusterError, connected, find_places
from vlcap.bulk.planning import NoPhotosError, find_sources, units_of, units_of_files
from vlcap.bulk.shards import ShardFolder, name_of
from vlcap.bulk.units import SourceError
from vlcap.bulk.work import Wish, caption_groups, in_groups
from vlcap.captioner import Captioner

COUNT, BATCH, SHARD = 22, 2, 3  # the cluster's photos
BAD = 13


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of drawn photos, the same photos in archives and tables, and a damaged archive."""
    top = tmp_path_factory.mktemp("sources")
    folder = top / "photos"
    folder.mkdir()
    for number in range(COUNT):
        drawings.draw(number).save(folder / f"{number:02}.png")
    (folder / f"{BAD}.png").write_text("no photo")
    files = sorted(folder.iterdir())
    with tarfile.open(top / "photos.tar", "w") as archive:
        for file in files:
            file.with_suffix(".txt").write_text("a caption")
            for each in (file, file.with_suffix(".txt")):
                archive.add(each, each.name)
            file.with_suffix(".txt").unlink()
    content = [file.read_bytes() for file in files]
    structs = pyarrow.table({"image": [{"bytes": each, "path": None} for each in content], "other": [*range(COUNT)]})
    pyarrow.parquet.write_table(structs, top / "structs.parquet", row_group_size=7)
    pyarrow.parquet.write_table(pyarrow.table({"image": content}), top / "plain.parquet")
    whole = (top / "photos.tar").read_bytes()
    (top / "cut.tar").write_bytes(whole[: len(whole) // 2])
    return top


@pytest.fixture(scope="module")
def captioner():
    """The bundled one, on ONNX Runtime: the processes of a cluster start in a second."""
    return Captioner.from_pretrained(engine="onnx", budget=3)


@pytest.fixture(scope="module")
def expected(captioner, photos):
    """What a single process says about each photo: (caption, score)."""
    files = sorted((photos / "photos").iterdir())
    groups = caption_groups(captioner, in_groups(files, BATCH), Wish(3, generation={"num_beams": 1}))
    return [(each.captions[0].text, each.captions[0].score) if each.captions else None for g in groups for each in g]


@pytest.fixture(scope="module")
def cluster():
    """Two machines of one CPU each."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - its own is 15: a busy machine would starve the tests
    settings = {"num_cpus": 1, "object_store_memory": 10**8}
    made = Cluster(initialize_head=True, head_node_args=settings | {"include_dashboard": False})
    made.second = made.add_node(**settings)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def vlcap(captioner, monkeypatch, capsys):
    """The command, in this process: (arguments) -> (status, standard error)."""
    monkeypatch.setattr(loading, "load", lambda *arguments, **settings: captioner)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(*arguments, sizes=("--batch-size", str(BATCH), "--shard-size", str(SHARD), "--beams", "1")):
        words = ["--ray", "--engine", "onnx", "--budget", "3", *sizes, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", ["vlcap", "caption", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, capsys.readouterr().err

    return run


def rows_of(folder):
    return [row for path in sorted(folder.glob("*.parquet")) for row in pyarrow.parquet.read_table(path).to_pylist()]


def assert_same(rows, expected):
    for number, (row, each) in enumerate(zip(rows, expected, strict=True)):
        if each is None:
            assert row["caption"] == "" and row["score"] is None and "not an image" in row["problem"], number
        else:
            assert (row["caption"], row["problem"]) == (each[0], ""), number
            assert row["score"] == pytest.approx(each[1], abs=2e-3)


def all_items(units):
    return [item for unit in units for item in unit.items()]


@pytest.mark.parametrize("size", [1, 7, 22, 100])
def test_units_have_each_photo_once(photos, size):
    files = sorted((photos / "photos").iterdir())
    for name in ("photos.tar", "structs.parquet", "plain.parquet"):
        units = units_of(str(photos / name), size)
        assert [unit.photos for unit in units] == [len(files[start : start + size]) for start in range(0, COUNT, size)]
        items = all_items(units)
        assert [item.content for item in items] == [file.read_bytes() for file in files]
        ends = [f"/{file.name}" if name.endswith("tar") else f"#{row}" for row, file in enumerate(files)]
        assert [item.name_in(photos) for item in items] == [name + end for end in ends]
    assert [str(item) for item in all_items(units_of_files([*map(str, files)], size))] == [*map(str, files)]


def test_damaged_sources_have_a_row_each(photos, tmp_path):
    (tmp_path / "no.tar").write_bytes(b"mine" * 500)
    (tmp_path / "no.parquet").write_bytes(b"PAR1" * 500)
    with tarfile.open(tmp_path / "twice.tar", "w") as archive:
        for _ in range(2):
            archive.add(photos / "photos" / "00.png", "00.png")
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(photos / "photos" / "00.png", "00.png")
    tarfile.open(tmp_path / "empty.tar", "w").close()
    for path in (*sorted(tmp_path.iterdir()), photos / "cut.tar"):
        [unit] = units_of(str(path), 4)
        [item] = unit.items()
        assert unit.kind == "damaged" and item.problem.startswith("damaged") and item.name_in(path.parent) == path.name
    pyarrow.parquet.write_table(pyarrow.table({"image": ["a.png"]}), tmp_path / "paths.parquet")
    with pytest.raises(NoPhotosError, match=r"paths\.parquet: needs a column image with the bytes"):
        units_of(str(tmp_path / "paths.parquet"), 4)


def test_sources(photos, tmp_path):
    place = Path(shutil.copytree(photos, tmp_path / "all"))
    shutil.copy(place / "plain.parquet", place / "photos.parquet")  # as img2dataset's, beside photos.tar
    (place / ".hidden.png").write_text("")
    (place / "photos" / "out").mkdir()
    for name in ("captions-00000-of-00001.parquet", "manifest.json"):
        (place / "photos" / "out" / name).write_text("")
    local = find_sources([str(place)], place / "photos" / "out")
    names = [f"photos/{number:02}.png" for number in range(COUNT)]
    assert local.photos == [str(place / name) for name in names]
    tables = ["cut.tar", "photos.tar", "plain.parquet", "structs.parquet"]
    assert sorted(local.containers) == [str(place / name) for name in tables] and not local.named
    assert local.others == [str(place / "photos.parquet")] and local.complete
    shutil.rmtree(place / "photos" / "out")
    (tmp_path / "archives" / "empty").mkdir(parents=True)
    shutil.copy(place / "photos.tar", tmp_path / "archives")
    alone = find_sources([str(tmp_path / "archives"), str(tmp_path / "archives" / "empty")], tmp_path / "out")
    assert alone.containers == [str(tmp_path / "archives" / "photos.tar")]
    assert alone.photos == [str(tmp_path / "archives" / "empty")]  # a folder without photos, which is reported
    there = find_sources([f"file://{place}"], tmp_path)
    assert there.photos == [f"file://{place / name}" for name in names] and there.roots == []
    assert sorted(there.containers) == [f"file://{place / name}" for name in tables]
    some = find_sources([f"file://{place}/photos/0*.png", f"file://{place}/photos/01.png"], tmp_path)
    assert some.photos == [f"file://{place / name}" for name in names[:10]]
    [unit] = units_of_files(some.photos[:1], 4)
    assert next(unit.items()).load().size == (64, 48)
    assert all_items(units_of(f"file://{place}/photos.tar", 9))[3].content == (place / names[3]).read_bytes()
    for url, message in (("memory://a", "of one process"), (f"file://{place}/*.jpg", "fits no"), ("no://a", "opened")):
        with pytest.raises(SourceError, match=message):
            find_sources([url], tmp_path)


def test_the_folder_is_a_persons(tmp_path):
    (tmp_path / "mine.parquet").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        ShardFolder(tmp_path)
    with pytest.raises(ValueError, match="name a folder of its own"):
        ShardFolder(Path("s3://bucket/folder"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.parquet"]
    folder = ShardFolder(tmp_path / "new")
    with pytest.raises(ValueError, match="another run is writing it"):
        ShardFolder(tmp_path / "new")
    assert folder.begin(units_of_files(["a.png"], 1), {}) == [0]
    (tmp_path / "new" / name_of(0, 1)).write_text("mine")
    folder.close()
    again = ShardFolder(tmp_path / "new")
    with pytest.raises(ValueError, match="was not written by vlcap"):
        again.begin(units_of_files(["a.png"], 1), {})
    again.close()


def test_places_on_the_machines():
    class Ray:
        def nodes(self):
            return [{"Alive": alive, "Resources": each} for alive, each in self.found]

    fake = Ray()
    fake.found = [(True, {"CPU": 4.0}), (True, {"CPU": 7.0}), (False, {"CPU": 64.0}), (True, {})]
    assert find_places(fake, "onnx", False, None).count == 2 + 3
    assert find_places(fake, "onnx", False, 4).count == 1 + 1
    with pytest.raises(ClusterError, match="has 7 CPUs"):
        find_places(fake, "onnx", False, 8)
    fake.found.append((True, {"CPU": 16.0, "GPU": 2.0}))
    on_gpu = find_places(fake, "pytorch", False, None)
    assert (on_gpu.gpus, on_gpu.count, on_gpu.threads) == (1, 2, 4)
    assert find_places(fake, "pytorch", True, None).gpus == find_places(fake, "onnx", False, None).gpus == 0
    fake.found = [(True, {"CPU": 1.0})]
    assert find_places(fake, "onnx", False, None).threads == 1


def test_usage(vlcap, photos, tmp_path, monkeypatch):
    for words in ((), ("--out", tmp_path / "a", "--existing", "skip"), ("--sidecar", ".txt"), ("--json",)):
        assert vlcap(photos, *words)[0] == 2, words
    monkeypatch.setitem(sys.modules, "ray", None)
    status, said = vlcap(photos, "--out", tmp_path / "out")
    assert status == 1 and "pip install 'vlcap[ray]'" in said


def processes_of(node):
    """Processes of a machine's workers that run our task."""
    raylet = node.all_processes["raylet"][0].process
    found = psutil.Process(raylet.pid).children(recursive=True)
    return [each for each in found if "caption_unit" in " ".join(each.cmdline())]


@pytest.mark.slow
def test_a_process_and_a_machine_die(vlcap, cluster, photos, expected, tmp_path, monkeypatch):
    """Each photo is captioned once, as by a single process. The same command then has nothing left to do."""
    out, added, killed = tmp_path / "out", [], []
    add = ShardFolder.add

    def adding(self, number, rows, counts):
        add(self, number, rows, counts)
        added.append(number)
        if len(killed) == 0 and (running := processes_of(cluster.head_node)):
            os.kill(running[0].pid, signal.SIGKILL)
            killed.append("process")
        elif killed == ["process"] and processes_of(cluster.second):
            cluster.remove_node(cluster.second, allow_graceful=False)
            killed.append("machine")

    monkeypatch.setattr(ShardFolder, "add", adding)
    status, said = vlcap(photos / "photos", "--out", out)
    assert killed == ["process", "machine"] and status == 1
    assert sorted(added) == [*range(6)]
    rows = rows_of(out)
    assert [row["image"] for row in rows] == [str(photos / "photos" / f"{number:02}.png") for number in range(COUNT)]
    assert_same(rows, expected)
    [error] = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert error == rows[BAD]
    assert f"{COUNT - 1} captioned, 0 skipped (done before), 1 unreadable" in said and "photos/s" in said
    counts = {"captioned": COUNT - 1, "unreadable": 1, "bare": 0}
    assert json.loads((out / "manifest.json").read_text())["finished"] == counts

    content = {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith(".")}
    (out / name_of(2, 6)).unlink()
    monkeypatch.setattr(ShardFolder, "add", add)
    status, said = vlcap(photos / "photos", "--out", out)
    assert status == 1 and f"4 captioned, {COUNT - 4} skipped (done before), 0 unreadable" in said
    assert {name: (out / name).read_bytes() for name in content} == content
    status, said = vlcap(photos / "photos", "--out", out, "--prefix", "a photo: ")
    assert status == 1 and "other settings (prefix '', now 'a photo: ')" in said
    status, said = vlcap(photos / "photos", photos / "plain.parquet", "--out", out)
    assert status == 1 and "the photos are not those" in said
    assert {name: (out / name).read_bytes() for name in content} == content


@pytest.mark.slow
def test_all_sources_give_the_same_captions(vlcap, cluster, photos, expected, tmp_path):
    """One machine is left by now, with one CPU."""
    out = tmp_path / "out"
    names = ["photos.tar", "structs.parquet", "plain.parquet", "cut.tar"]
    status, said = vlcap(*(photos / name for name in names), f"file://{photos}/photos", "--out", out)
    rows = rows_of(out)
    assert status == 1 and f"{4 * (COUNT - 1)} captioned, 0 skipped (done before), 5 unreadable" in said
    assert rows[0]["image"] == f"file://{photos}/photos/00.png"
    for number in range(4):
        assert_same(rows[COUNT * number : COUNT * (number + 1)], expected)
    assert rows[-1]["image"] == str(photos / "cut.tar") and "cut short" in rows[-1]["problem"]
    assert len((out / "errors.jsonl").read_text().splitlines()) == 5


@pytest.mark.slow
def test_captions_as_in_a_file(vlcap, cluster, captioner, photos, tmp_path):
    """--count, --prefix and --min-score do what they do with `--out FILE`."""
    out = tmp_path / "out"
    limit = -0.8
    words = ("--count", "3", "--prefix", "a photo: ", "--suffix", ".", "--min-score", limit)
    _, said = vlcap(photos / "photos", "--out", out, *words, sizes=("--batch-size", "8"))
    wish = Wish(3, 3, limit, "a photo: ", ".")
    files = sorted((photos / "photos").iterdir())
    groups = caption_groups(captioner, in_groups(files, 8), wish)
    rows = [row for group in groups for each in group for row in each.rows(str(each.photo))]
    assert [(row["image"], row["caption"]) for row in rows_of(out)] == [(row.image, row.caption) for row in rows]
    assert "captions below --min-score are left out" in said


@pytest.mark.slow
def test_captioning_without_ray_does_not_import_it():
    program = "import sys, app.cli, vlcap.bulk.cluster, vlcap.bulk.planning; assert 'ray' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({}, None),
        ({"RAY_AUTH_TOKEN": "abc"}, "token"),
        ({"RAY_AUTH_TOKEN_PATH": "there"}, "token"),
        ({"HOME": "."}, "token"),
        ({"HOME": ".", "RAY_AUTH_MODE": "disabled"}, "disabled"),
    ],
    ids=str,
)
def test_a_token_is_sent_if_there_is_one(settings, mode, monkeypatch, tmp_path):
    (tmp_path / ".ray").mkdir()
    for place in ("there", ".ray/auth_token"):
        (tmp_path / place).write_text("abc")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {"HOME": "nowhere"} | settings)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    with connected(None):
        assert os.environ.get("RAY_AUTH_MODE") == mode
