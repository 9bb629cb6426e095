"""Captions many photos on a Ray cluster of two machines, which are processes here, and compares with a single process.

    python -m tests.cluster --photos 3000

When a quarter of the shards is done, a process is killed; at one half, a whole machine. At the end each photo must have
its rows once, with the captions of a single process. The rates of both are printed; that of the cluster is measured
until the first kill, and again over the whole run. The exit status tells.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow.parquet

from tests.support import drawings

BATCH = 16
WORDS = ["--engine", "onnx", "--batch-size", str(BATCH)]


def command(*words) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "app.cli", "caption", *map(str, words), *WORDS]
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)


def captioned(out: Path) -> int:
    return len(list(out.glob("captions-*.parquet")))


def tasks(node) -> list[psutil.Process]:
    """Processes of a machine that caption."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [each for each in raylet.children(recursive=True) if "caption_unit" in " ".join(each.cmdline())]


def on_cluster(photos: Path, out: Path, shards: int, size: int) -> str:
    """Runs the command on a cluster, and kills. Returns what the command said."""
    from ray.cluster_utils import Cluster

    settings = {"num_cpus": 1, "object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args=settings | {"include_dashboard": False})
    second = cluster.add_node(**settings)
    run = command(photos, "--ray", "--address", cluster.address, "--threads", 1, "--shard-size", size, "--out", out)
    first, killed = None, 0  # when the first shard was there, and how many; kills
    while run.poll() is None:
        time.sleep(0.2)
        done = captioned(out)
        if first is None and done:
            first = time.perf_counter(), done
        if killed == 0 and first and done >= shards // 4 and (running := tasks(cluster.head_node)):
            seconds, new = time.perf_counter() - first[0], (done - first[1]) * size
            print(
                f"two machines of one CPU: {new / seconds:.1f} photos/s between the first shard and a quarter of them"
            )
            os.kill(running[0].pid, signal.SIGKILL)
            killed = 1
        elif killed == 1 and done >= shards // 2 and tasks(second):
            cluster.remove_node(second, allow_graceful=False)
            killed = 2
    assert run.stderr is not None
    said = run.stderr.read()
    cluster.shutdown()
    print(f"killed: {['nothing', 'a process', 'a process and a machine'][killed]}")
    return said


def rows_of(paths: list[Path]) -> dict[str, list]:
    found: dict[str, list] = {}
    for path in paths:
        for row in pyarrow.parquet.ParquetFile(path).read().to_pylist():
            found.setdefault(Path(row["image"]).name, []).append((row["caption"], row["problem"]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=3000)
    parser.add_argument("--shard-size", type=int, default=64)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos, out, single = (Path(folder) / name for name in ("photos", "shards", "single.parquet"))
        photos.mkdir()
        for number in range(asked.photos):
            drawings.draw(number, (240, 180)).save(photos / f"{number:06}.jpg")
        for number in range(7, asked.photos, 500):  # some cannot be read
            (photos / f"{number:06}.jpg").write_text("no photo")
        start = time.perf_counter()
        run = command(photos, "--out", single)
        assert run.stderr is not None
        print(run.stderr.read().splitlines()[-1])
        print(f"a single process: {asked.photos / (time.perf_counter() - start):.1f} photos/s, with its start")
        said = on_cluster(photos, out, -(-asked.photos // asked.shard_size), asked.shard_size)
        print(said.splitlines()[-1].replace(folder, ""))
        one, two = rows_of([single]), rows_of(sorted(out.glob("*.parquet")))
        different = [name for name in one if one[name] != two.get(name)]
        errors = len((out / "errors.jsonl").read_text().splitlines())
        unreadable = sum(bool(problem) for [(_, problem)] in one.values())
        print(f"{len(two)} photos have rows, {len(different)} of them other ones than from a single process")
        print(f"{errors} are listed in errors.jsonl, {unreadable} could not be read")
        return int(one.keys() != two.keys() or bool(different) or errors != unreadable)


if __name__ == "__main__":
    sys.exit(main())
