"""The dataset of a split: rows encoded as samples, broken rows reported or skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from data.batch import Batch, Sample, collate
from data.source import Row, RowError
from data.worker_watchdog import WorkerWatchdog
from ofa.errors import UserError

# A task's encoding of a row, for training (True) or evaluation. The generator is seeded by (seed, epoch or view, row),
# so augmentation does not depend on the workers.
Encode = Callable[[Row, np.random.Generator, bool], Sample]
OnError = Literal["stop", "skip"]

VIEWS_SEED = 0  # of repeated views, whatever the seed of the run: a teacher cache serves every seed
MAX_SKIPPED = 100  # consecutive broken rows after which the whole source is considered wrong


class TaskDataset(Dataset[Sample]):
    """Samples of `rows`, by index.

    With on_error="stop", a broken row is an error. With "skip", training replaces it by the next readable row, and
    evaluation, where no row may count twice, omits it; a note with source, row and reason travels in the batch.

    A sample's key is view * number of rows + row; with views it denotes the same sample in every run.

    Args:
        limit: use the first `limit` rows only.
        seed: of the augmentations, where every epoch has a new one.
        watchdog: records the row that each worker reads.
        views: number of augmentations of each row, the same for all seeds; epochs cycle through them. None: every
            epoch has a new one.

    Raises:
        UserError: on_error is neither "stop" nor "skip".
    """

    def __init__(
        self,
        rows: Sequence[Row],
        encode: Encode,
        *,
        train: bool,
        on_error: OnError = "stop",
        seed: int = 0,
        limit: int | None = None,
        views: int | None = None,
        watchdog: WorkerWatchdog | None = None,
    ) -> None:
        if on_error not in ("stop", "skip"):
            raise UserError(f"data.on_error={on_error} is neither stop nor skip")
        self.rows, self.encode, self.train, self.on_error, self.seed = rows, encode, train, on_error, seed
        self.views, self.watchdog = views, watchdog
        self.length = len(rows) if limit is None else min(limit, len(rows))
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # shared with workers that outlive an epoch

    def set_epoch(self, epoch: int) -> None:
        """Selects the augmentations of an epoch, in workers as well."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """The sample of row `index` or, where training skips broken rows, of the first readable one of MAX_SKIPPED."""
        if not (self.train and self.on_error == "skip"):
            return self._read(index)
        skipped = []
        while True:
            try:
                sample = self._read((index + len(skipped)) % self.length)
                return replace(sample, notes=(*sample.notes, *skipped))
            except RowError as error:
                skipped.append(_skip_note(error))
                if len(skipped) >= min(MAX_SKIPPED, self.length):
                    message = f"{error.message}, the last of {len(skipped)} broken rows in succession"
                    raise RowError(error.source, error.number, message, "check the data", error.unit) from error

    def __getitems__(self, indices: list[int]) -> list[Sample | UserError]:
        """The samples of a batch, for DataLoader; errors are values, since torch garbles those raised in a worker."""
        items: list[Sample | UserError] = []
        for index in indices:
            try:
                items.append(self[index])
            except UserError as error:
                items.append(error)
        return items

    def collate(self, items: list[Sample | UserError]) -> Batch | UserError:
        """The items as a batch, or the error for the main process to raise."""
        can_skip = not self.train and self.on_error == "skip"
        for item in items:
            if isinstance(item, UserError) and not (can_skip and isinstance(item, RowError)):
                return item
        batch = collate([item for item in items if isinstance(item, Sample)])
        batch.notes += [_skip_note(item) for item in items if isinstance(item, RowError)]
        return batch

    def _read(self, index: int) -> Sample:
        epoch = int(self.epoch)
        seed, view = (self.seed, epoch) if self.views is None else (VIEWS_SEED, epoch % self.views)
        rng = np.random.default_rng((seed, view, index))
        with nullcontext() if self.watchdog is None else self.watchdog.reading(index):
            sample = self.encode(self.rows[index], rng, self.train)
        return replace(sample, key=view * len(self.rows) + index)


def _skip_note(error: RowError) -> str:
    return f"skipped {error.unit} {error.number} of {error.source}: {error.message}"
