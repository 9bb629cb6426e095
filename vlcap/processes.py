"""Shares work between the processes that torchrun starts, and joins their results.

    torchrun --nproc_per_node 2 --no-python vlcap evaluate --data DIR

Without torchrun there is one process, which does all the work. It need not import PyTorch for that.
"""

import os
import sys
from datetime import timedelta
from typing import Any


def several() -> bool:
    """Whether torchrun has started more processes than this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def connect() -> bool:
    """Connects the processes, if there are several. Returns whether this is the one that writes files and prints."""
    import torch
    from accelerate import PartialState

    # Without cpu=True, accelerate treats processes on a machine without a GPU as single runs. The timeout is long
    # because a process may wait for the first one to encode a data set. torchrun ends all of them if one dies.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7)).is_main_process


def place() -> tuple[int, int]:
    """Number of this process, and number of all of them."""
    if "torch" not in sys.modules:  # nothing can be connected
        return 0, 1
    import torch.distributed as dist

    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def share(items: int) -> range:
    """The items of this process, out of so many: consecutive ones. Each item belongs to exactly one process."""
    rank, world = place()
    return range(rank * items // world, (rank + 1) * items // world)


def join(mine: list[Any]) -> list[Any]:
    """The items of all processes, in the order of their shares. Every process gets all of them."""
    if place()[1] == 1:
        return mine
    import torch.distributed as dist

    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return [item for each in everyone for item in each]
