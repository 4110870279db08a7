"""Rows to samples, and what happens to rows that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from data.batch import Batch, Sample, collate
from data.tsv import Row, RowError
from data.worker_watchdog import WorkerWatchdog
from ofa.errors import UserError

# A task's view of a row, for training (True) or evaluation. The generator is seeded by (seed, epoch or view, row), so
# augmentation repeats for any workers.
Encode = Callable[[Row, np.random.Generator, bool], Sample]
OnError = Literal["stop", "skip"]

VIEWS_SEED = 0  # of augmentations that come again, whatever the run's: what a teacher said of them serves every seed
MAX_SKIPPED = 100  # broken rows in a row, after which a file is not damaged in places but wrong


class TaskDataset(Dataset[Sample]):
    """Samples of `rows`, by index.

    With on_error="stop", a broken row is an error. With "skip", it is replaced by the next readable one in training,
    where a sample more or less does not matter, and left out in evaluation, where nothing may count twice; either way
    a note with file, line and reason travels in the batch.

    A sample's key is view * number of rows + its row; with views it stands for the same sample in every run.

    Args:
        rows: such as a TSVFile; reading one may raise RowError.
        encode: row, random generator and whether for training -> sample; may raise RowError.
        train: whether samples are for training.
        limit: use the first `limit` rows only.
        seed: of the augmentations, where every epoch has a new one.
        reading: where workers say which row they are at; None: nowhere.
        views: how many augmentations there are of each row, the same for all seeds; epochs go round them. None: every
            epoch has a new one.

    Raises:
        UserError: on_error is neither.
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
        reading: WorkerWatchdog | None = None,
    ) -> None:
        if on_error not in ("stop", "skip"):
            raise UserError(f"data.on_error={on_error} is neither stop nor skip")
        self.rows, self.encode, self.train, self.on_error, self.seed = rows, encode, train, on_error, seed
        self.views, self.reading = views, reading
        self.length = len(rows) if limit is None else min(limit, len(rows))
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that outlive an epoch

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose augmentations are next, for workers, too."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """The sample of row `index` or, where broken rows are skipped in training, of the first readable one from it.

        Raises:
            RowError: where the row, or each of MAX_SKIPPED rows, is broken.
        """
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
                    message = f"{error.message}, the last of {len(skipped)} broken rows with none between"
                    raise RowError(error.path, error.line, message, "check file and data.columns") from error

    def __getitems__(self, indices: list[int]) -> list[Sample | UserError]:
        """What DataLoader asks for; errors are values here, for torch would garble those raised in a worker."""
        items: list[Sample | UserError] = []
        for index in indices:
            try:
                items.append(self[index])
            except UserError as error:
                items.append(error)
        return items

    def collate(self, items: list[Sample | UserError]) -> Batch | UserError:
        """The items as a batch, or the error that the main process is to raise."""
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
        with nullcontext() if self.reading is None else self.reading.reading(index):
            sample = self.encode(self.rows[index], rng, self.train)
        return replace(sample, key=view * len(self.rows) + index)


def _skip_note(error: RowError) -> str:
    return f"skipped line {error.line} of {error.path}: {error.message}"
