"""The loggers of a run that goes on in its own folder: what they knew of updates that come again is left out."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger, Logger


def truncate_csv_logs(loggers: Iterable[Logger], step: int, validates_first: bool) -> None:
    """Has each table of a run go on behind its first `step` updates.

    Where the run goes on with the validation behind these, scores of it that are known already are left out, too.

    Lightning's writer deletes a table that it finds. Until the rows are written again they stand beside it, so that
    none is lost where this is interrupted.
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


def _rows(file: Path) -> Iterable[dict[str, str]]:
    """The rows with the values they have; a last one that was not written to its end is left out."""
    whole, _, _ = file.read_text().rpartition("\n")
    for row in csv.DictReader(whole.splitlines()):
        yield {name: value for name, value in row.items() if value}
