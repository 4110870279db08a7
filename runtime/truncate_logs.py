"""Logs of a run that resumes in its own folder: rows of steps that will be repeated are removed."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger, Logger


def truncate_csv_logs(loggers: Iterable[Logger], step: int, validates_first: bool) -> None:
    """Keep the rows of the first `step` steps in each `metrics.csv`.

    If the run resumes with the validation after these steps, existing scores of that validation are removed as well.

    Lightning's writer deletes a file that it finds. Until the rows are written again they are in another file next to
    it, so that none is lost if this is interrupted.
    """
    for logger in loggers:
        if not isinstance(logger, CSVLogger):
            continue
        file = Path(logger.log_dir, "metrics.csv")
        aside = file.with_name("metrics.before.csv")
        if file.is_file() and not aside.is_file():
            os.replace(file, aside)
        if aside.is_file():
            for row in _rows(aside):
                last = int(row["step"])  # counted from 0
                if validates_first and last == step - 1:
                    row = {name: value for name, value in row.items() if not name.startswith("val/")}
                if last < step:
                    logger.experiment.log_metrics(row, last)
            logger.save()
            aside.unlink()


def _rows(file: Path) -> list[dict[str, str]]:
    """The rows with the values they have, except a last one that was not written completely."""
    complete, _, _ = file.read_text().rpartition("\n")
    return [{name: value for name, value in row.items() if value} for row in csv.DictReader(complete.splitlines())]
