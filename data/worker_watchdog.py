"""Which row each worker is at, so that one that hangs or dies can be named: `WorkerRows`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils.data import get_worker_info

from data.tsv import RowError

Item = TypeVar("Item")

# How the errors of torch's DataLoader begin when no batch comes in time and when a worker has ended.
TIMED_OUT, DIED = "DataLoader timed out", "DataLoader worker (pid"


class WorkerWatchdog:
    """The row that each of a loader's workers reads, in memory that they share with the main process.

    Args:
        path: the file they read.
        num_workers: of the loader; 0 where the main process reads, and nothing has to be known.
        timeout: of the loader, in seconds; 0: none.
    """

    def __init__(self, path: Path, num_workers: int, timeout: int) -> None:
        self.path, self.timeout = path, timeout
        # Row, from 0, and since when; -1: none. float64, for monotonic seconds.
        self.rows = torch.full((num_workers, 2), -1.0, dtype=torch.float64).share_memory_()

    @contextmanager
    def reading(self, row: int) -> Iterator[None]:
        """While the calling worker reads `row`."""
        worker = get_worker_info()
        if worker is not None:
            self.rows[worker.id] = torch.tensor([row, time.monotonic()], dtype=torch.float64)
        try:
            yield
        finally:
            if worker is not None:
                self.rows[worker.id, 0] = -1

    def name_errors(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The batches of a DataLoader.

        Raises:
            RowError: no batch came in time, or a worker has died. It names the row that has been read for longest.
        """
        batches = iter(batches)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                raise self._explain(error) from error
            yield batch

    def _explain(self, error: RuntimeError) -> Exception:
        is_late = str(error).startswith(TIMED_OUT)
        busy = [(since, int(row)) for row, since in self.rows.tolist() if row >= 0]
        if not busy or not (is_late or str(error).startswith(DIED)):
            return error
        since, row = min(busy)
        if is_late:
            message = f"reading it has taken {time.monotonic() - since:.0f} s, and no batch came for {self.timeout} s"
            remedy = "see whether file and file system answer, or raise data.worker_timeout"
        else:
            message = f"the process that read it ended ({str(error).splitlines()[0]})"
            remedy = "see whether memory ran out, which fewer data.num_workers save, or whether the row is damaged"
        return RowError(self.path, row + 1, message, remedy)
