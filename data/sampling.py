"""Samplers: the order of rows and their distribution over processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class ShuffleSampler(Sampler[int]):
    """Training: rows 0 .. n - 1 in a new random order for each epoch, every `world`-th of them for process `rank`.

    The order depends on the seed and the epoch only, not on the number of processes or workers. All processes get
    equally many rows: where `world` does not divide n, the first few rows of the order occur twice.
    """

    def __init__(self, n: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.n, self.seed, self.rank, self.world = n, seed, rank, world
        self.epoch = 0
        # Number of rows of the epoch that were used, over all processes; an iteration starts after them. Set by the
        # consumer of the rows, since a DataLoader's workers run ahead.
        self.position = 0

    def __len__(self) -> int:
        """Rows of a full epoch for this process, whatever the position."""
        return -(-self.n // self.world)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n)
        own = np.resize(order, len(self) * self.world)[self.rank :: self.world]
        return map(int, own[self.position // self.world :])

    def set_epoch(self, epoch: int) -> None:
        """Moves to the beginning of `epoch`, unless it is the current one, which may be half done."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0


class ExactShardSampler(Sampler[int]):
    """Evaluation: rows 0 .. n - 1, each once over all processes, in contiguous shards of whole batches.

    A row shares its batch with the same rows as in a single process, since the last digits of a result depend on the
    batch. Shards differ by at most one batch, so an evaluation step must not wait for the other processes.
    """

    def __init__(self, n: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        batches = -(-n // batch_size)
        first, end = (batch_size * (batches * place // world) for place in (rank, rank + 1))
        self.shard = range(first, min(n, end))

    def __len__(self) -> int:
        return len(self.shard)

    def __iter__(self) -> Iterator[int]:
        return iter(self.shard)
