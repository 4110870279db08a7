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
    """One unusable row: which row of which source, what is wrong with it, and the remedy.

    Survives pickling, so it can cross from a worker to the main process as a value.
    """

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
    """One row of a data set.

    Attributes:
        values: text of each column; an image may also be the bytes of its encoded file.
        source: the file or data set it comes from, as errors name it.
        number: of the row in its source, from 1.
        unit: of the number: "line" of a text file, "row" of anything else.
        note: ends the message of errors, where values come from elsewhere.
    """

    values: Mapping[str, Any]
    source: str | Path
    number: int
    unit: str = "line"
    note: str = ""

    def error(self, message: str, *remedy: str) -> RowError:
        """An error about this row, raised by the code that finds its content wrong."""
        return RowError(self.source, self.number, message + self.note, *remedy, unit=self.unit)


@dataclass(frozen=True)
class RowFormat:
    """The rows that a task reads, for the data source that delivers them.

    Attributes:
        task: name of the task.
        columns: name and position, from 0, of each column in the published TSV files.
        n_columns: number of columns of these files, unread ones included.
        splits: the evaluation splits; the first one is for validation.
        files: published file of a split, where its name is not `<task>_<split>.tsv`.
        demo: the task's class, which may declare rows for data=demo.
    """

    task: str
    columns: Mapping[str, int]
    n_columns: int
    splits: Sequence[str]
    files: Mapping[str, str]
    demo: Any = None


class DataSource(ABC):
    """The rows of each split of a data set.

    `configs/data/x.yaml` names the class as `_target_`; it is called with `task`, a RowFormat, and the keys of the
    file, apart from those of the loaders (batch_size, num_workers, ...). Every process of a run builds its own.

    Attributes:
        splits: names of the splits it has: "train" and those of the task.
        columns: where the source finds each task column, such as its number; part of a teacher cache's identity.
        answer_list: JSON file with all answers of a closed-answer task, which `task.answer_list` replaces.
        is_demo: whether the demo's own small vocabulary suffices.
        baseline_files: TSV files on which trivial baselines are scored, after a test.
        unit: of row numbers in errors, see Row.
        split_remedy: what to set where a split is missing.
    """

    splits: Collection[str]
    columns: Mapping[str, Any] = {}
    answer_list: Path | None = None
    is_demo: bool = False
    baseline_files: Mapping[str, Path] = {}
    unit: str = "row"
    split_remedy: str = "choose another data source"

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
        """Checks the splits and writes what is needed once, such as an index. Local rank 0 calls this first.

        Raises:
            UserError: a split cannot be read.
        """

    def name(self, split: str) -> str:
        """The file or data set of a split, as errors name it."""
        return f"split {split}"


def check_names(option: str, names: Collection[str], known: Collection[str]) -> None:
    """Refuses unknown names.

    Raises:
        UserError: for the first, with the closest known name.
    """
    for name in names:
        if name not in known:
            raise UserError(f"{option}: {name} is not one of {', '.join(known)}{did_you_mean(name, known)}")
