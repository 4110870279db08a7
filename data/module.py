"""The data of a run: one file a split, served to Lightning as batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from data.batch import Batch, collate
from data.dataset import Encode, OnError, TaskDataset
from data.sampling import ExactShardSampler, ShuffleSampler
from data.teacher_answers import AnsweredRows, TeacherAnswers
from data.tsv import TSVFile, check_file
from data.worker_watchdog import WorkerWatchdog
from data.workers import leave_signals_to_parent
from ofa.errors import UserError


class OFADataModule(pl.LightningDataModule):
    """Loaders for the splits of one data set. The trainer must have `use_distributed_sampler=False`.

    Args:
        files: TSV file of each split. "train" and "val" have their usual parts.
        columns: name and number, from 0, of the columns `encode` reads.
        n_columns: exact number of columns of the format, where it has one.
        encode: the task's function from row, random generator and whether it is for training to sample.
        batch_size: samples per training step and process.
        eval_batch_size: samples per evaluation step and process.
        num_workers: reading processes per loader; 0 reads in the main process.
        worker_timeout: seconds without a batch from them, after which the row that one hangs at is named; 0: never.
        seed: of the order and, without train_views, of the augmentation.
        on_error: what a broken row does, see TaskDataset.
        train_limit: train on the first rows only.
        train_views: how many augmentations of each row training shows, see TaskDataset.
        test_splits: the splits that are tested; None: all but "train".
        teacher_answers: to be learnt in the place of the training file's own.
        rank, world: the number of this process, and how many there are.

    Raises:
        UserError: at construction, where a file is missing or empty.
    """

    def __init__(
        self,
        files: Mapping[str, str | Path],
        columns: Mapping[str, int],
        encode: Encode,
        *,
        batch_size: int,
        eval_batch_size: int,
        n_columns: int | None = None,
        num_workers: int = 0,
        worker_timeout: int = 0,
        seed: int = 0,
        on_error: OnError = "stop",
        train_limit: int | None = None,
        train_views: int | None = None,
        test_splits: Sequence[str] | None = None,
        teacher_answers: TeacherAnswers | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__()
        self.files = {split: Path(path) for split, path in files.items()}
        self.columns, self.n_columns, self.encode = columns, n_columns, encode
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.worker_timeout = worker_timeout
        self.seed, self.on_error, self.train_limit, self.train_views = seed, on_error, train_limit, train_views
        if test_splits is None:
            test_splits = [split for split in files if split != "train"]
        self.test_splits = list(test_splits)  # in the order of `test_dataloader()`
        self.teacher_answers = teacher_answers
        self.rank, self.world = rank, world
        for path in self.files.values():
            check_file(path)

    def prepare_data(self) -> None:
        """Index the files; Lightning calls this in one process of a machine before the others open them."""
        for split in self.files:
            self.rows(split)

    def rows(self, split: str, names: Sequence[str] | None = None) -> TSVFile:
        """The file of `split`, opened; `names` are the columns wanted of it, all that `encode` reads by default.

        Raises:
            UserError: where there is no such split.
        """
        if split not in self.files:
            raise UserError(f"split {split!r} is not one of {', '.join(self.files)}")
        columns = self.columns if names is None else {name: self.columns[name] for name in names}
        return TSVFile(self.files[split], columns, self.n_columns)

    def train_dataloader(self) -> TrainLoader:
        """The training split, shuffled anew in each epoch.

        Raises:
            UserError: Lightning is to overfit batches, for which it would change the order.
        """
        if self.trainer is not None and self.trainer.overfit_batches:
            raise UserError("trainer.overfit_batches would replace the training order; set data.train_limit instead")
        dataset = self.train_dataset()
        return TrainLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=ShuffleSampler(len(dataset), self.seed, self.rank, self.world),
            collate_fn=dataset.collate,
            persistent_workers=self.num_workers > 0,
            **self._loading(),
            generator=torch.Generator(),  # else each new iterator would draw from the random numbers of training
        )

    def train_dataset(self) -> TaskDataset:
        """The rows as training shows them."""
        rows = self.rows("train")
        return TaskDataset(
            rows if self.teacher_answers is None else AnsweredRows(rows, self.teacher_answers),
            self.encode,
            train=True,
            on_error=self.on_error,
            seed=self.seed,
            limit=self.train_limit,
            views=self.train_views,
            reading=self._reading("train"),
        )

    def view_dataloader(self, view: int, rows: Sequence[int]) -> EvalLoader:
        """Of the training split the given rows, in their order, as training shows them in epoch `view`."""
        dataset = self.train_dataset()
        dataset.set_epoch(view)
        return EvalLoader(
            dataset,
            batch_size=self.eval_batch_size,
            sampler=rows,
            collate_fn=dataset.collate,
            **self._loading(),
        )

    def val_dataloader(self) -> EvalLoader:
        """The split that validations use."""
        return self.dataloader("val")

    def test_dataloader(self) -> list[EvalLoader]:
        """One of each of `test_splits`."""
        return [self.dataloader(split) for split in self.test_splits]

    def dataloader(self, split: str) -> EvalLoader:
        """Every row of `split` once over all processes, in the file's order."""
        dataset = TaskDataset(
            self.rows(split),
            self.encode,
            train=False,
            on_error=self.on_error,
            seed=self.seed,
            reading=self._reading(split),
        )
        return EvalLoader(
            dataset,
            batch_size=self.eval_batch_size,
            sampler=ExactShardSampler(len(dataset), self.eval_batch_size, self.rank, self.world),
            collate_fn=dataset.collate,
            persistent_workers=self.num_workers > 0 and split == "val",  # the others are read once
            **self._loading(),
            generator=torch.Generator(),  # else each new iterator would draw from the random numbers of training
        )

    def _loading(self) -> dict[str, Any]:
        """What all loaders have in common."""
        timeout = self.worker_timeout if self.num_workers else 0  # torch has none for the main process
        return {
            "num_workers": self.num_workers,
            "timeout": timeout,
            "worker_init_fn": leave_signals_to_parent,
            "pin_memory": torch.cuda.is_available(),
        }

    def _reading(self, split: str) -> WorkerWatchdog:
        return WorkerWatchdog(self.files[split], self.num_workers, self.worker_timeout)


class TrainLoader(DataLoader[Batch]):
    """Batches of a TaskDataset in the order of a ShuffleSampler; can go on in the middle of an epoch.

    Lightning keeps `state_dict()` in its checkpoints. The position counts batches given to the training loop, since
    workers run ahead of it.
    """

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that this starts with the first batch: Lightning calls iter() before it sets the epoch.
        self.dataset.set_epoch(self.sampler.epoch)
        for batch in _raise_errors(super().__iter__(), self.dataset.reading):
            self.sampler.position += self.batch_size * self.sampler.world
            yield batch
        self.sampler.position = 0

    def state_dict(self) -> dict[str, Any]:
        """How many rows there are, the epoch, and the rows of it that were given out."""
        return {"rows": self.sampler.n, "epoch": self.sampler.epoch, "position": self.sampler.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was made.

        Raises:
            UserError: the file has another number of rows.
        """
        if state["rows"] != self.sampler.n:
            raise UserError(
                f"the run to resume had {state['rows']} rows of training, and these are {self.sampler.n}; it can only "
                "go on with the file it had"
            )
        self.sampler.epoch, self.sampler.position = state["epoch"], state["position"]


class EvalLoader(DataLoader[Batch]):
    """Batches of a TaskDataset: notes of one whose rows were all skipped go to its neighbour.

    Only a process that has no rows, or none that could be read, is given one empty batch: Lightning would leave out the
    end of an evaluation without any, for which the others wait.
    """

    def __len__(self) -> int:
        return max(1, super().__len__())

    def __iter__(self) -> Iterator[Batch]:
        held: Batch | None = None
        for batch in _raise_errors(super().__iter__(), self.dataset.reading):
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


def _raise_errors(batches: Iterable[Batch | UserError], reading: WorkerWatchdog | None) -> Iterator[Batch]:
    """The batches; an error that a worker met, or was, is raised here, in the main process, by its row."""
    for batch in batches if reading is None else reading.name_errors(batches):
        if isinstance(batch, UserError):
            try:
                raise batch
            finally:
                del batch  # else error and frame refer to each other, and torch takes 5 s a worker to end such cycles
        yield batch
