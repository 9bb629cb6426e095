"""Shares work between the processes that torchrun starts, and joins their results.

    torchrun --nproc_per_node 2 --no-python vlcap evaluate --data DIR

Without torchrun there is one process, which does all the work.
"""

from datetime import timedelta
from typing import Any

import torch.distributed as dist


def connect() -> bool:
    """Connects the processes, if there are several. Returns whether this is the one that writes files and prints."""
    import torch
    from accelerate import PartialState

    # Without cpu=True, accelerate treats processes on a machine without a GPU as single runs. The timeout is long
    # because a process may wait for the first one to encode a data set. torchrun ends all of them if one dies.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7)).is_main_process


def share(items: int) -> range:
    """The items of this process, out of so many: consecutive ones. Each item belongs to exactly one process."""
    if not dist.is_initialized():
        return range(items)
    rank, world = dist.get_rank(), dist.get_world_size()
    return range(rank * items // world, (rank + 1) * items // world)


def join(mine: list[Any]) -> list[Any]:
    """The items of all processes, in the order of their shares. Every process gets all of them."""
    if not dist.is_initialized():
        return mine
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return [item for each in everyone for item in each]
