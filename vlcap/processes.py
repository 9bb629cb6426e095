"""Work shared between the processes that torchrun has started: who takes which items, everyone's answers joined.

    torchrun --nproc_per_node 2 -m app.cli evaluate --data DIR

Without torchrun there is one process, which takes all.
"""

from datetime import timedelta
from typing import Any

import torch.distributed as dist


def connect() -> bool:
    """Joins the processes if there are several; says whether this is the one that writes and speaks."""
    import torch
    from accelerate import PartialState

    # Without cpu=True accelerate takes processes on a machine without a GPU for so many single runs. Who waits, waits:
    # for the first process to encode a data set, say. torchrun ends them all if one dies.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7)).is_main_process


def share(items: int) -> range:
    """This process's part of so many items: neighbours, none twice, none left out."""
    if not dist.is_initialized():
        return range(items)
    rank, world = dist.get_rank(), dist.get_world_size()
    return range(rank * items // world, (rank + 1) * items // world)


def join(mine: list[Any]) -> list[Any]:
    """Every process's items, in the order of their shares; each process gets all."""
    if not dist.is_initialized():
        return mine
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return [item for each in everyone for item in each]
