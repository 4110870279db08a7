"""Collective operations between the processes of a run; a run of one process needs no process group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from typing import TypeVar

import torch
import torch.distributed as dist

Item = TypeVar("Item")

CHUNK = 1000  # items of each process that are sent at once


def rank() -> int:
    """The number of this process in the run."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes of the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(items: Sequence[Item]) -> list[Item]:
    """On rank 0 the items of all processes, ordered by rank; on other ranks only their own.

    All processes have to call it. Items are sent in chunks, so that few of them are in memory twice.
    """
    if world_size() == 1:
        return list(items)
    counts = [0] * world_size()
    dist.all_gather_object(counts, len(items))
    parts: list[list[Item]] = [[] for _ in counts]
    for start in range(0, max(counts), CHUNK):
        pieces = [None] * len(counts) if rank() == 0 else None
        dist.gather_object(items[start : start + CHUNK], pieces)
        for part, piece in zip(parts, pieces or [], strict=False):
            part += piece
    return list(chain(*parts)) if rank() == 0 else list(items)


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def all_reduce_max(value: int) -> int:
    """The maximum over all processes."""
    if world_size() > 1:
        values = torch.tensor(value)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        value = int(values)
    return value


def mean_weights(sizes: torch.Tensor) -> torch.Tensor:
    """Factors for means over `sizes` items, with which their mean over processes is the mean over all items."""
    return sizes * world_size() / all_reduce_sum(sizes)


def broadcast_object(value: Item) -> Item:
    """The value of rank 0."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values)
    return values[0]


def broadcast_tensors(tensors: Iterator[torch.Tensor]) -> None:
    """Overwrite tensors with those of rank 0."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def barrier() -> None:
    """Return when all processes have called it."""
    if world_size() > 1:
        dist.barrier()


@contextmanager
def local_rank_zero_first(processes_per_node: int) -> Iterator[None]:
    """The body runs on one process of each node first, then on the others, which find its work done.

    Indexing a large file on a slow drive may take longer than the timeout of other collectives.
    """
    if world_size() == 1:
        yield
        return
    group = dist.new_group(backend="gloo", timeout=timedelta(days=1))  # if the first dies, the others know at once
    is_first = rank() % processes_per_node == 0
    if not is_first:
        dist.barrier(group)
    yield
    if is_first:
        dist.barrier(group)
