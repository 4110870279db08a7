"""The Lightning data module: batches of each split of a data source."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from data.batch import Batch, collate
from data.dataset import Encode, OnError, TaskDataset
from data.sampling import ExactShardSampler, ShuffleSampler
from data.source import DataSource, Row
from data.teacher_answers import AnsweredRows, TeacherAnswers
from data.worker_watchdog import WorkerWatchdog, ignore_scheduler_signals
from ofa.errors import UserError


class OFADataModule(pl.LightningDataModule):
    """Data loaders for the splits of a data source. The trainer must have `use_distributed_sampler=False`.

    Args:
        source: the rows of each split.
        columns: the task columns that `encode` reads.
        encode: the task's function from (row, random generator, is training) to a sample.
        batch_size, eval_batch_size: samples per step and process.
        num_workers: worker processes per loader; 0 reads in the main process.
        worker_timeout: seconds without a batch after which the row at which a worker hangs is reported; 0: never.
        seed: of the order and, without train_views, of the augmentation.
        on_error, train_limit, train_views: see TaskDataset.
        splits: the splits in use; None: all of the source. "train" and "val" have their usual roles.
        test_splits: the splits to test; None: all in use except "train".
        teacher_answers: targets that replace those of the training rows.
        rank, world: rank of this process and number of processes.

    Raises:
        UserError: at construction, where the source lacks a split.
    """

    def __init__(
        self,
        source: DataSource,
        columns: Collection[str],
        encode: Encode,
        *,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int = 0,
        worker_timeout: int = 0,
        seed: int = 0,
        on_error: OnError = "stop",
        train_limit: int | None = None,
        train_views: int | None = None,
        splits: Sequence[str] | None = None,
        test_splits: Sequence[str] | None = None,
        teacher_answers: TeacherAnswers | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__()
        self.source, self.columns, self.encode = source, list(columns), encode
        self.splits = list(source.splits if splits is None else splits)
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.worker_timeout = worker_timeout
        self.seed, self.on_error, self.train_limit, self.train_views = seed, on_error, train_limit, train_views
        # In the order of `test_dataloader()`.
        self.test_splits = [s for s in self.splits if s != "train"] if test_splits is None else list(test_splits)
        self.teacher_answers = teacher_answers
        self.rank, self.world = rank, world
        for split in self.splits:
            self._check_split(split)

    def prepare_data(self) -> None:
        """Prepares the splits; Lightning calls this in one process per machine before the others."""
        self.source.prepare(self.splits)
        for split in self.splits:
            self.rows(split)  # refuses missing columns before any work starts

    def rows(self, split: str, columns: Collection[str] | None = None) -> Sequence[Row]:
        """The rows of `split` with the given columns, or those that `encode` reads; UserError if it lacks one."""
        self._check_split(split)
        return self.source.rows(split, self.columns if columns is None else columns)

    def _check_split(self, split: str) -> None:
        if split not in self.source.splits:
            names = ", ".join(self.source.splits)
            raise UserError(f"the data has no split {split!r}, only {names}; {self.source.split_remedy}")

    def train_dataloader(self) -> TrainLoader:
        """The training split, shuffled in each epoch."""
        if self.trainer is not None and self.trainer.overfit_batches:
            raise UserError("trainer.overfit_batches would replace the training order; set data.train_limit instead")
        dataset = self.train_dataset()
        return TrainLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=ShuffleSampler(len(dataset), self.seed, self.rank, self.world),
            persistent_workers=self.num_workers > 0,
            **self._loader_options(dataset),
        )

    def train_dataset(self) -> TaskDataset:
        """The training split as samples."""
        rows = self.rows("train")
        if self.teacher_answers is not None:
            rows = AnsweredRows(rows, self.teacher_answers)
        return self._dataset("train", rows, train=True, limit=self.train_limit, views=self.train_views)

    def view_dataloader(self, view: int, rows: Sequence[int]) -> EvalLoader:
        """The given training rows, in this order, with the augmentation of epoch `view`."""
        dataset = self.train_dataset()
        dataset.set_epoch(view)
        options = self._loader_options(dataset) | {"generator": None}
        return EvalLoader(dataset, batch_size=self.eval_batch_size, sampler=rows, **options)

    def val_dataloader(self) -> EvalLoader:
        """The validation split."""
        return self.dataloader("val")

    def test_dataloader(self) -> list[EvalLoader]:
        """One loader for each of `test_splits`."""
        return [self.dataloader(split) for split in self.test_splits]

    def dataloader(self, split: str) -> EvalLoader:
        """Every row of `split` once over all processes, in its order."""
        dataset = self._dataset(split, self.rows(split), train=False)
        return EvalLoader(
            dataset,
            batch_size=self.eval_batch_size,
            sampler=ExactShardSampler(len(dataset), self.eval_batch_size, self.rank, self.world),
            persistent_workers=self.num_workers > 0 and split == "val",  # the others are read once
            **self._loader_options(dataset),
        )

    def _dataset(self, split: str, rows: Sequence[Row], **options: Any) -> TaskDataset:
        watchdog = WorkerWatchdog(self.source.name(split), self.source.unit, self.num_workers, self.worker_timeout)
        options |= {"on_error": self.on_error, "seed": self.seed, "watchdog": watchdog}
        return TaskDataset(rows, self.encode, **options)

    def _loader_options(self, dataset: TaskDataset) -> dict[str, Any]:
        return {
            "collate_fn": dataset.collate,
            "num_workers": self.num_workers,
            "timeout": self.worker_timeout if self.num_workers else 0,  # torch refuses one for the main process
            "worker_init_fn": ignore_scheduler_signals,
            "pin_memory": torch.cuda.is_available(),
            "generator": torch.Generator(),  # else each new iterator would draw from the random state of training
        }


class TrainLoader(DataLoader[Batch]):
    """Batches of a TaskDataset in the order of a ShuffleSampler; can resume in the middle of an epoch.

    Lightning saves `state_dict()` in its checkpoints. The position counts batches that the training loop has received,
    since workers run ahead of it.
    """

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that this starts with the first batch: Lightning calls iter() before it sets the epoch.
        self.dataset.set_epoch(self.sampler.epoch)
        for batch in _raise_errors(super().__iter__(), self.dataset.watchdog):
            self.sampler.position += self.batch_size * self.sampler.world
            yield batch
        self.sampler.position = 0

    def state_dict(self) -> dict[str, Any]:
        """Number of rows, epoch, and number of rows of the epoch that were used."""
        return {"rows": self.sampler.n, "epoch": self.sampler.epoch, "position": self.sampler.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict`; UserError if the number of training rows has changed."""
        if state["rows"] != self.sampler.n:
            raise UserError(
                f"the run to resume had {state['rows']} training rows, and there are {self.sampler.n} now; resume it "
                "with the data it had"
            )
        self.sampler.epoch, self.sampler.position = state["epoch"], state["position"]


class EvalLoader(DataLoader[Batch]):
    """Batches of a TaskDataset; the notes of a batch whose rows were all skipped move to its neighbour.

    Only a process without readable rows gets one empty batch: without any, Lightning would omit the end of the
    evaluation, for which the other processes wait.
    """

    def __len__(self) -> int:
        return max(1, super().__len__())

    def __iter__(self) -> Iterator[Batch]:
        held: Batch | None = None
        for batch in _raise_errors(super().__iter__(), self.dataset.watchdog):
            if held is None:
                held = batch
            elif not len(batch):
                held.notes += batch.notes
            elif not len(held):
                batch.notes = held.notes + batch.notes
                held = batch
            else:
                yield held
                held = batch
        yield collate([]) if held is None else held


def _raise_errors(batches: Iterable[Batch | UserError], watchdog: WorkerWatchdog | None) -> Iterator[Batch]:
    """The batches; errors of workers are raised here, in the main process, and name the row."""
    for batch in batches if watchdog is None else watchdog.name_errors(batches):
        if isinstance(batch, UserError):
            try:
                raise batch
            finally:
                del batch  # else error and frame form a cycle, and torch takes 5 s per worker to end
        yield batch
