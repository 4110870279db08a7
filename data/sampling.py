"""In which order rows are read, and by which process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class ShuffleSampler(Sampler[int]):
    """Training: rows 0 .. n - 1 in an order drawn anew for each epoch, every `world`-th of them for process `rank`.

    The order depends on the seed and the epoch alone, not on the number of processes or workers. Processes take steps
    together and so get equally many rows: where `world` does not divide n, the first few rows of the order occur twice.

    Attributes:
        epoch: whose order is given; Lightning calls `set_epoch`.
        position: how many rows of the epoch were used, over all processes; an iteration starts behind them. Kept by who
            uses the rows, for a DataLoader's workers ask for them long before.
    """

    def __init__(self, n: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.n, self.seed, self.rank, self.world = n, seed, rank, world
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        """Rows of a whole epoch for this process, whatever the position."""
        return -(-self.n // self.world)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n)
        own = np.resize(order, len(self) * self.world)[self.rank :: self.world]
        return map(int, own[self.position // self.world :])

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of `epoch`; nothing changes where that is the present one, which may be half done."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0


class ExactShardSampler(Sampler[int]):
    """Evaluation: rows 0 .. n - 1, each once over all processes; shares are contiguous, of whole batches.

    No row is repeated to make shares equal, so that a metric counts each once, and a row has the neighbours it has
    where there is one process: what is computed for a row depends on these in the last digits. Shares differ by at most
    a batch. Nothing in an evaluation step may wait for the other processes.
    """

    def __init__(self, n: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        batches = -(-n // batch_size)
        first, end = (batch_size * (batches * place // world) for place in (rank, rank + 1))
        self.share = range(first, min(n, end))

    def __len__(self) -> int:
        return len(self.share)

    def __iter__(self) -> Iterator[int]:
        return iter(self.share)
