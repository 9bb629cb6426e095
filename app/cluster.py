"""`vlcap caption --ray`: captions into a folder, on a Ray cluster, with a progress bar and a closing line."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import loading
from .keeping import progress_bar, settings_of
from .parsing import parse_budget
from .printing import say


@dataclass(frozen=True)
class Asked:
    """The options of the command, under their names. The rest of the captions' wishes is made by `wish`."""

    model: str | None
    budget: str | None
    beams: int | None
    int8: bool
    engine: str | None
    batch_size: int
    shard_size: int
    threads: int | None
    address: str | None
    prefix: str
    suffix: str
    count: int
    min_score: float | None


def caption_on_ray(names: Sequence[str], out: Path, asked: Asked) -> int:
    """Captions photos, folders, archives and tables into a folder. Returns the exit status."""
    from vlcap.bulk import cluster
    from vlcap.bulk.planning import find_sources
    from vlcap.bulk.shards import ShardFolder

    side = parse_budget(asked.budget)
    folder = ShardFolder(out)
    try:
        sources = find_sources(names, out)
        with cluster.connected(asked.address) as ray:
            places = cluster.find_places(ray, asked.engine, asked.int8, asked.threads)
            units, remarks = cluster.plan(ray, sources, _whole_batches(asked))
            name = os.path.abspath(asked.model) if asked.model and os.path.isdir(asked.model) else asked.model
            captioner = loading.load(name, places.engine, int8=asked.int8, budget=side)
            wish = _wish(captioner, asked)
            weights = loading.identify(name, captioner, asked.int8)
            sizes = {"batch_size": asked.batch_size, "shard_size": _whole_batches(asked)}
            todo = folder.begin(units, {**settings_of(captioner, wish, weights), "engine": places.engine, **sizes})
            digests = tuple(weights["captioner"].items())
            model = cluster.Model(name, digests, places.engine, asked.int8, side, places.threads)
            job = cluster.Job(model, wish, asked.batch_size, os.path.abspath(out), tuple(sources.roots))
            del captioner  # other processes have theirs
            started = time.perf_counter()
            failed = _run(cluster.caption_units(ray, [(each, units[each]) for each in todo], job, places), folder)
            seconds = time.perf_counter() - started
        if not failed:
            folder.finish()
    finally:
        folder.close()
    for remark in [*sources.remarks(), *remarks, *_closing(folder, seconds, failed)]:
        say(remark)
    return int(bool(failed or folder.counts.unreadable or not sources.complete))


def _whole_batches(asked: Asked) -> int:
    """Photos per shard: whole batches, so that the same photos share a batch as in a single process."""
    return -(-asked.shard_size // asked.batch_size) * asked.batch_size


def _wish(captioner: Any, asked: Asked) -> Any:
    from vlcap.bulk.work import Wish

    budget = loading.choose_budget(captioner, asked.budget, asked.model)
    search = loading.search_for(captioner, asked.beams, asked.count)
    return Wish(budget, asked.count, asked.min_score, asked.prefix, asked.suffix, search)


def _run(results: Any, folder: Any) -> dict[int, str]:
    """Writes the shards as they come. Returns the units that could not be captioned, with the reasons."""
    failed = {}
    total = sum(unit.photos for unit in folder.units)
    done = sum(folder.units[number].photos for number in folder.done)
    with progress_bar() as progress:
        task = progress.add_task("captioning", total=total - done)
        for number, rows, counts in results:
            if counts is None:
                failed[number] = rows
                continue
            folder.add(number, rows, counts)
            for row in rows:
                if row.problem:
                    say(f"{row.image}: {row.problem}")
            progress.advance(task, folder.units[number].photos)
    return failed


def _closing(folder: Any, seconds: float, failed: dict[int, str]) -> list[str]:
    """Closing lines: what failed, what is left out, and one for all."""
    now, before = folder.counts, folder.before
    lines = []
    if failed:
        number, reason = min(failed.items())
        photos = sum(folder.units[each].photos for each in failed)
        lines.append(
            f"{photos} photos in {len(failed)} shards are not captioned: repeat the command to try again "
            f"(shard {number}: {reason})"
        )
    if now.left_out:
        lines.append(f"{now.left_out} captions below --min-score are left out")
    captioned = now.captioned - before.captioned
    skipped = before.captioned + before.bare + before.unreadable
    unreadable = now.unreadable - before.unreadable
    rate = f", {captioned / seconds:.1f} photos/s" if captioned else ""
    also = f" (listed in {folder.folder / 'errors.jsonl'})" if now.unreadable and not failed else ""
    lines.append(
        f"captions are in {folder.folder}: {captioned} captioned, {skipped} skipped (done before), "
        f"{unreadable} unreadable{also}{rate}"
    )
    return lines
