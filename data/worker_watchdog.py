"""Worker processes of the data loaders: the row at which one hangs or dies, and their signals."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch.utils.data import get_worker_info

from data.source import RowError

Item = TypeVar("Item")

# The beginning of DataLoader's errors when no batch comes in time and when a worker has ended.
TIMED_OUT, DIED = "DataLoader timed out", "DataLoader worker (pid"


class WorkerWatchdog:
    """The row that each worker of a loader reads, in shared memory; `source` and `unit` name rows in errors."""

    def __init__(self, source: str, unit: str, num_workers: int, timeout: int) -> None:
        self.source, self.unit, self.timeout = source, unit, timeout
        # Row, from 0 (-1: none), and the time at which reading began. float64, for monotonic seconds.
        self.rows = torch.full((num_workers, 2), -1.0, dtype=torch.float64).share_memory_()

    @contextmanager
    def reading(self, row: int) -> Iterator[None]:
        """Records that the calling worker reads `row`."""
        worker = get_worker_info()
        if worker is not None:
            self.rows[worker.id] = torch.tensor([row, time.monotonic()], dtype=torch.float64)
        try:
            yield
        finally:
            if worker is not None:
                self.rows[worker.id, 0] = -1

    def name_errors(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The batches of a DataLoader; RowError for the row read the longest if none came in time or a worker died."""
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
            remedy = "check that the file system responds, or raise data.worker_timeout"
        else:
            message = f"the process that read it ended ({str(error).splitlines()[0]})"
            remedy = "check whether memory ran out (then lower data.num_workers) or the row is damaged"
        return RowError(self.source, row + 1, message, remedy, self.unit)


def ignore_scheduler_signals(worker: int) -> None:
    """Leaves a scheduler's signals to all processes to the main process, which still needs batches to finish cleanly.

    The `worker_init_fn` of the loaders. SIGTERM ends a worker only where the main process sends it.
    """
    if sys.platform != "linux":  # where schedulers send no signals
        return
    for number in signal.valid_signals() - {signal.SIGINT, signal.SIGCHLD, signal.SIGTERM}:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_at_parents_sigterm, daemon=True).start()


def _exit_at_parents_sigterm() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
