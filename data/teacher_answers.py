"""Teacher answers as training targets: sequence-level distillation (arXiv 1606.07947)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.source import Row, RowError
from ofa.errors import UserError

log = logging.getLogger(__name__)

WRITER = "python evaluate.py task=TASK checkpoint=TEACHER split=train"


@dataclass(frozen=True)
class TeacherAnswers:
    """A teacher's answers to the training rows."""

    path: Path  # of the predictions
    column: str  # that the answers replace
    by_id: Mapping[str, str]  # the new value of this column by the row's `uniq_id`


class AnsweredRows(Sequence[Row]):
    """`rows` with the teacher's answers as targets; reading a row without one raises RowError."""

    def __init__(self, rows: Sequence[Row], answers: TeacherAnswers) -> None:
        self.rows, self.answers = rows, answers

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        row, answers = self.rows[index], self.answers
        name = row.values["uniq_id"]
        if name not in answers.by_id:
            raise row.error(
                f"{answers.path} has no answer to {name!r} of split train",
                f"write the answers with `{WRITER}`, or set data.on_error=skip",
            )
        values = {**row.values, answers.column: answers.by_id[name]}
        return replace(row, values=values, note=f", where {answers.column} is the teacher's, from {answers.path}")


def read_teacher_answers(
    path: Path, field: str, column: str, write: Callable[[Any], str], skip_broken: bool = False
) -> TeacherAnswers:
    """The answers to split train in a `predictions.jsonl` of evaluate.py; the first of several with the same id.

    Args:
        field, column: the field of a line that contains the answer, and the column of a row that it replaces.
        write: converts an answer to the column's format; raises ValueError for an invalid one.
        skip_broken: omit a malformed line and its row, as broken rows are.

    Raises:
        UserError: the file cannot be read or has no answer to split train.
        RowError: a line is malformed and not to be skipped.
    """
    answers: dict[str, str] = {}
    others: set[str] = set()
    broken: list[RowError] = []
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    prediction = _read(line, field, write)
                except ValueError as error:
                    remedy = f"correct it, write the file with `{WRITER}`, or set data.on_error=skip"
                    broken.append(RowError(path, number, str(error), remedy))
                    if not skip_broken:
                        raise broken[-1] from error
                    continue
                if prediction is not None:
                    name, answer = prediction
                    if answers.setdefault(name, answer) != answer:
                        others.add(name)
    except OSError as error:
        raise UserError(
            f"distill.predictions={path} cannot be read ({error.strerror}); `{WRITER}` writes such a file, "
            "predictions.jsonl"
        ) from error
    if not answers:
        raise UserError(f"distill.predictions={path} has no answers to split train; write them with `{WRITER}`")
    log.info("teacher answers to %d training rows in %s", len(answers), path)
    if broken:
        log.warning("%d of its lines are malformed and skipped with their rows; the first: %s", len(broken), broken[0])
    if others:
        log.warning("%s has several answers to each of %d ids; the first one is used", path, len(others))
    return TeacherAnswers(path, column, answers)


def _read(line: bytes, field: str, write: Callable[[Any], str]) -> tuple[str, str] | None:
    """The id and the converted answer of a line of split train; None for another split; ValueError if malformed."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error})") from error
    if not isinstance(record, dict) or not isinstance(record.get("split"), str):
        raise ValueError("it is not a prediction with a split")
    if record["split"] != "train":
        return None
    if not isinstance(record.get("uniq_id"), str):
        raise ValueError("its uniq_id is missing or not text")
    if field not in record:
        raise ValueError(f"it has no field {field}, the answer of this task")
    return record["uniq_id"], write(record[field])
