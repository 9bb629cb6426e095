"""Paired timing: functions run in turn, round after round, so that a machine whose speed drifts does no harm.

`vlcap bench` and `vlcap compare` time with it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Key = TypeVar("Key")
Row = dict[str, Any]


def paired_times(
    functions: Mapping[Key, Callable[[], Any]],
    rounds: int,
    device: torch.device | None = None,
    track: Callable[[Iterable, int], Iterable] = lambda items, total: items,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, list[float]]:
    """Seconds of each function in each round, after one round that is not counted.

    In each round every function runs once. Another one is first each time, so that no function always follows the same.

    Args:
        functions: The functions.
        rounds: Number of rounds that are counted.
        device: Device whose work is waited for; None for the CPU, where nothing is left to wait for.
        track: (rounds, number of them) -> rounds, to show progress.
        clock: What tells the time. `time.process_time` counts the seconds of the processor instead, over all threads:
            with one thread, they hardly depend on what else the machine does.
    """
    names = list(functions)
    times: dict[Key, list[float]] = {name: [] for name in names}
    for turn in track(range(rounds + 1), rounds + 1):
        for step in range(len(names)):
            name = names[(turn + step) % len(names)]
            start = _now(device, clock)
            functions[name]()
            times[name].append(_now(device, clock) - start)
    return {name: own[1:] for name, own in times.items()}


def compared(times: Mapping[str, list[float]], against: str) -> list[Row]:
    """A row for each function: its median milliseconds, and how many times faster it is than `against`.

    The ratio is the median of the ratios of the rounds.
    """
    return [
        {
            "what": name,
            "ms": 1000 * statistics.median(own),
            "times_faster": statistics.median(theirs / mine for theirs, mine in zip(times[against], own, strict=True)),
        }
        for name, own in times.items()
    ]


def _now(device: torch.device | None, clock: Callable[[], float]) -> float:
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return clock()
