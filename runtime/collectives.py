"""What the processes of a run know of each other; a run of one process is its own first, and gathers from itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from typing import TypeVar

import torch
import torch.distributed as dist

Item = TypeVar("Item")

CHUNK = 1000  # items of each process that travel at once
PREPARING = timedelta(days=1)  # that the first process of a machine may take; one that dies is known at once


def rank() -> int:
    """The number of this process among all of the run."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes the run has."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(own: Sequence[Item]) -> list[Item]:
    """In the first process the items of all, in the order of processes; in the others only their own.

    All processes have to call this together. Items travel in chunks, so that little of them is in memory twice.
    """
    if world_size() == 1:
        return list(own)
    counts = [0] * world_size()
    dist.all_gather_object(counts, len(own))
    parts: list[list[Item]] = [[] for _ in counts]
    for start in range(0, max(counts), CHUNK):
        pieces = [None] * len(counts) if rank() == 0 else None
        dist.gather_object(own[start : start + CHUNK], pieces)
        for part, piece in zip(parts, pieces or [], strict=False):
            part += piece
    return list(chain(*parts)) if rank() == 0 else list(own)


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def all_reduce_max(value: int) -> int:
    """The largest that a process has."""
    if world_size() > 1:
        values = torch.tensor(value)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        value = int(values)
    return value


def mean_weights(sizes: torch.Tensor) -> torch.Tensor:
    """By what to multiply means over so many things, so that their mean over processes is the mean over all things."""
    return sizes * world_size() / all_reduce_sum(sizes)


def broadcast_object(value: Item) -> Item:
    """The value that the first process has."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def broadcast_tensors(tensors: Iterator[torch.Tensor]) -> None:
    """Overwrites tensors by those of the first process."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def barrier() -> None:
    """Returns when all processes have come so far."""
    if world_size() > 1:
        dist.barrier()


@contextmanager
def local_rank_zero_first(processes_of_machine: int) -> Iterator[None]:
    """What stands inside is done by one process of each machine, and by the others when they find it done.

    To index a large file on a slow drive may take longer than the processes otherwise wait for each other.
    """
    if world_size() == 1:
        yield
        return
    group = dist.new_group(backend="gloo", timeout=PREPARING)
    is_first = rank() % processes_of_machine == 0
    if not is_first:
        dist.barrier(group)
    yield
    if is_first:
        dist.barrier(group)
