"""Captions units of photos on a Ray cluster, or on a local Ray: `vlcap caption SOURCE --out FOLDER --ray`.

A unit is one task of Ray. The process that runs a task keeps its captioner for the next one. If a process or a machine
dies, Ray runs its tasks again elsewhere. The rows come back to the driver, which alone writes files: each unit once.

These are tasks, and not Ray Data's map_batches over a pool of actors: an actor whose machine has died waits, with its
work, until its share of CPUs or its GPU is free somewhere, and on a full cluster that is never. A task takes the next
free place. New machines are used as soon as they join.
"""

import contextlib
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from ..captioner import Captioner, find_captioner
from ..engines.choose import CHOICE
from ..errors import VlcapError, reason
from ..model.finding import digests_of
from .planning import NoPhotosError, Sources, units_of, units_of_files
from .rows import Row
from .shards import Counts
from .units import SourceError, Unit
from .work import Wish, caption_groups

WAITING = 64  # tasks that wait or run at least, so that a cluster that grows on demand sees the demand
DEATHS = 10  # of processes and machines that a unit survives; a photo that kills its process must not do so for ever
MEMORY = 256 * 1024**2  # bytes for the objects of a local Ray: rows are small
THREADS = 2  # of a process on a CPU: a second one decodes photos meanwhile


class ClusterError(VlcapError):
    """The cluster cannot do the work. The message says why."""


@dataclass(frozen=True)
class Places:
    """Where captioners run.

    Attributes:
        engine: onnx or pytorch.
        threads: CPU threads of each captioner.
        gpus: GPUs of each, 0 or 1.
        count: Number of captioners that the cluster has place for now.
    """

    engine: str
    threads: int
    gpus: int
    count: int


@dataclass(frozen=True)
class Model:
    """A captioner that each machine loads for itself.

    Attributes:
        name: Folder or hub id; None for the bundled captioner.
        digests: Its files, as items of `digests_of`: other machines must have the same.
        engine: onnx or pytorch.
        int8: Whether its weights are in 8 bits.
        budget: Side of the compressed grid that will be asked for, if only one.
        threads: CPU threads.
    """

    name: str | None
    digests: tuple[tuple[str, str], ...]
    engine: str
    int8: bool
    budget: int | None
    threads: int


@dataclass(frozen=True)
class Job:
    """What all units share.

    Attributes:
        model: The captioner.
        wish: What is asked of the captions.
        batch_size: Photos per batch.
        folder: Folder of the results, from which the names of photos count. It need not exist on other machines.
        roots: Paths that every machine needs.
    """

    model: Model
    wish: Wish
    batch_size: int
    folder: str
    roots: tuple[str, ...]


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Gives the module ray, connected to a cluster.

    Args:
        address: HOST:PORT of the cluster. None for the one that this process belongs to ($RAY_ADDRESS, which Ray sets
            in its jobs), or else a Ray on this machine that is started now.

    Raises:
        ClusterError: Ray is not installed, or no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # sends nothing anywhere
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default, and no warning about it
    if _has_token():  # Ray reads this when it is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError:
        raise ClusterError("--ray needs the package ray: pip install 'vlcap[ray]'") from None
    place = address or os.environ.get("RAY_ADDRESS") or "local"
    local: dict[str, Any] = {"include_dashboard": False, "object_store_memory": MEMORY} if place == "local" else {}
    mine = not ray.is_initialized()
    if mine:
        try:
            ray.init(address=place, logging_level="ERROR", log_to_driver=False, **local)
        except Exception as error:  # ConnectionError, RuntimeError, ValueError and others
            raise ClusterError(f"Ray: cannot connect to {place} ({reason(error)})") from error
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _has_token() -> bool:
    """Whether there is a token for a cluster. Ray asks for one wherever one exists, but does not send it by itself.

    A cluster without a token takes no notice of it.
    """
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or path.is_file()


def find_places(ray: Any, engine: str | None, int8: bool, threads: int | None) -> Places:
    """Where captioners can run: one per GPU, or one per so many CPU threads.

    Args:
        ray: The module ray, connected.
        engine: onnx or pytorch; None for $VLCAP_ENGINE, or pytorch if the cluster has GPUs, and onnx otherwise.
        int8: Whether the weights are in 8 bits, which is for CPUs.
        threads: CPU threads of each captioner; None for a number that suits the machines.

    Raises:
        ClusterError: No machine has so many CPUs.
    """
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(node.get("CPU", 0)) for node in found if node.get("CPU", 0) >= 1]
    gpus = sum(int(node.get("GPU", 0)) for node in found)
    if not cpus:
        raise ClusterError("Ray: no machine of the cluster has a CPU for tasks (--num-cpus of ray start)")
    chosen = engine or os.environ.get(CHOICE) or ("pytorch" if gpus and not int8 else "onnx")
    on_gpu = chosen == "pytorch" and gpus > 0 and not int8
    if threads is None:
        threads = max(1, min(4, sum(cpus) // gpus)) if on_gpu else min(THREADS, *cpus)
    if threads > max(cpus):
        raise ClusterError(f"--threads {threads}: the largest machine of the cluster has {max(cpus)} CPUs for Ray")
    count = gpus if on_gpu else sum(each // threads for each in cpus)
    return Places(chosen, threads, int(on_gpu), count)


def plan(ray: Any, sources: Sources, size: int) -> tuple[list[Unit], list[str]]:
    """The units of all sources, and remarks on tables without photos. Archives and tables are looked through by tasks.

    Raises:
        SourceError: A source that was named cannot be read or has no photos.
    """
    look = ray.remote(units_of).options(max_retries=DEATHS)
    units, remarks = units_of_files(sources.photos, size), []
    tasks = (look.remote(place, size) for place in sources.containers)
    running = list(islice(tasks, WAITING))
    for place in sources.containers:
        try:
            units += _result(ray, running.pop(0))
        except NoPhotosError as error:
            if place in sources.named:
                raise
            remarks.append(f"skipped: {error}")
        running += islice(tasks, 1)
    return units, remarks


def caption_units(
    ray: Any, units: Iterable[tuple[int, Unit]], job: Job, places: Places
) -> Iterator[tuple[int, list[Row], Counts] | tuple[int, str, None]]:
    """Captions units on the cluster.

    Args:
        ray: The module ray, connected.
        units: The units, each with its number.
        job: What they share.
        places: What a captioner needs.

    Returns:
        For each unit, when it is done: its number, its rows and what became of its photos; or its number and the
        reason why there are no rows.

    Raises:
        VlcapError: The captioner cannot do what is asked, or a machine lacks what it needs.
    """
    task = ray.remote(max_calls=0)(caption_unit)  # 0: the process, with its captioner, is used again
    task = task.options(num_cpus=places.threads, num_gpus=places.gpus, max_retries=DEATHS)
    shared, coming = ray.put(job), iter(units)
    running: dict[Any, int] = {}
    try:
        while True:
            for number, unit in islice(coming, max(WAITING - len(running), 2 * places.count - len(running), 0)):
                running[task.remote(unit, shared)] = number
            if not running:
                return
            [done], _ = ray.wait(list(running))
            number = running.pop(done)
            try:
                rows, counts = _result(ray, done)
            except SourceError as error:
                yield number, str(error), None
            except ray.exceptions.RayError as error:
                yield number, reason(error), None
            else:
                yield number, rows, counts
    finally:
        for each in running:
            ray.cancel(each, force=True)


def _result(ray: Any, task: Any) -> Any:
    """What a task returned, or the error that it raised, without Ray's own around it."""
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def caption_unit(unit: Unit, job: Job) -> tuple[list[Row], Counts]:
    """Captions a unit, in a process of the cluster.

    Raises:
        SourceError: Its photos cannot be read now.
        ClusterError: This machine lacks the photos, or has another captioner.
    """
    for root in job.roots:
        if not os.path.exists(root):  # otherwise each photo would be reported as missing
            raise ClusterError(f"{root}: is not on {_machine()}: use a disk that all machines share, or URLs")
    captioner = _load(job.model)
    rows: list[Row] = []
    counts = Counts()
    groups = _groups(unit, job.batch_size)
    read = lambda item: captioner.pixels.cut(item.load())  # noqa: E731 - it needs the captioner
    for group in caption_groups(captioner, groups, job.wish, read, readers=job.model.threads):
        for each in group:
            rows += each.rows(each.photo.name_in(Path(job.folder)))
            bare = bool(each.left_out) and not each.captions
            counts += Counts(bool(each.captions), each.error is not None, bare, len(each.left_out))
    return rows, counts


def _machine() -> str:
    return f"the machine {platform.node()} of the cluster"


def _groups(unit: Unit, size: int) -> Iterator[Sequence[Any]]:
    items = unit.items()
    while group := list(islice(items, size)):
        yield group


@lru_cache(maxsize=1)
def _load(model: Model) -> Captioner:
    """The captioner of this process."""
    os.environ["OMP_NUM_THREADS"] = str(model.threads)  # ONNX Runtime's and PyTorch's; Ray has set a number of its own
    folder = find_captioner(model.name)
    if tuple(digests_of(folder).items()) != model.digests:
        raise ClusterError(f"{folder}: is another captioner on {_machine()}: copy it there")
    dtype = None
    if model.engine == "pytorch":
        import torch

        torch.set_num_threads(model.threads)
        if not model.int8:
            from ..engines.pytorch import fastest_dtype

            dtype = fastest_dtype()
    return Captioner.from_pretrained(model.name, engine=model.engine, dtype=dtype, int8=model.int8, budget=model.budget)
