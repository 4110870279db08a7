"""Rows and data sources: `Row`, `RowError`, `DataSource`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa.config import did_you_mean
from ofa.errors import UserError


class RowError(UserError):
    """One unusable row: where it is, what is wrong with it, and the remedy. Workers send it as a value, by pickling."""

    def __init__(
        self,
        source: str | Path,
        number: int,
        message: str,
        remedy: str = "correct or remove the row, or set data.on_error=skip",
        unit: str = "line",
    ) -> None:
        super().__init__(f"{unit} {number} of {source}: {message}; {remedy}")
        self.source, self.number, self.message, self.remedy, self.unit = source, number, message, remedy, unit

    def __reduce__(self):
        return type(self), (self.source, self.number, self.message, self.remedy, self.unit)


@dataclass(frozen=True)
class Row:
    """One row of a data set."""

    values: Mapping[str, Any]  # text of each column; an image may also be the bytes of its encoded file
    source: str | Path  # the file or data set it comes from, as errors name it
    number: int  # of the row in its source, from 1
    unit: str = "line"  # of the number: "line" of a text file, "row" of anything else
    note: str = ""  # ends the message of errors, where values come from elsewhere

    def error(self, message: str, *remedy: str) -> RowError:
        """An error about this row, raised by the code that finds its content wrong."""
        return RowError(self.source, self.number, message + self.note, *remedy, unit=self.unit)


@dataclass(frozen=True)
class RowFormat:
    """The rows that a task reads, for the data source that delivers them."""

    task: str  # its name
    columns: Mapping[str, int]  # name and position, from 0, of each column in the published TSV files
    n_columns: int  # of these files, unread ones included
    splits: Sequence[str]  # for evaluation; the first one is for validation
    files: Mapping[str, str]  # published file of a split, where its name is not `<task>_<split>.tsv`
    demo: Any = None  # the task's class, which may declare rows for data=demo


class DataSource(ABC):
    """The rows of each split of a data set.

    `configs/data/x.yaml` names the class as `_target_`; it is called with `task`, a RowFormat, and the keys of the
    file, apart from those of the loaders (batch_size, num_workers, ...). Every process of a run builds its own.
    """

    splits: Collection[str]  # that it has: "train" and those of the task
    columns: Mapping[str, Any] = {}  # where it finds each task column; part of a teacher cache's identity
    answer_list: Path | None = None  # JSON, all answers of a closed-answer task, which `task.answer_list` replaces
    is_demo: bool = False  # whether the demo's own small vocabulary suffices
    baseline_files: Mapping[str, Path] = {}  # TSV files on which trivial baselines are scored, after a test
    unit: str = "row"  # of row numbers in errors, see Row
    split_remedy: str = "choose another data source"  # what to set where a split is missing

    @abstractmethod
    def rows(self, split: str, columns: Collection[str]) -> Sequence[Row]:
        """Random access to the rows of a split, each with at least the given task columns.

        Travels to the worker processes of a loader. Reading a row may raise RowError.
        """

    @abstractmethod
    def depends_on(self, split: str) -> Sequence[Path | str]:
        """What identifies the content of a split: files, which are digested, or texts such as a revision.

        A run resumes only where these are as they were.
        """

    def prepare(self, splits: Collection[str]) -> None:  # noqa: B027  optional
        """Checks the splits and writes what is needed once, such as an index; local rank 0 calls this first."""

    def name(self, split: str) -> str:
        """The file or data set of a split, as errors name it."""
        return f"split {split}"


def check_names(option: str, names: Collection[str], known: Collection[str]) -> None:
    """Raises UserError for the first unknown name, with the closest known one."""
    for name in names:
        if name not in known:
            raise UserError(f"{option}: {name} is not one of {', '.join(known)}{did_you_mean(name, known)}")
