"""CSV logger with one row per step."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment

from ofa.atomic_write import atomic_write


class StepCSVLogger(CSVLogger):
    """Lightning's logger of `metrics.csv`, with all values of a step in one row instead of a row for each call."""

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer of the file."""
        if self._experiment is None:
            self._experiment = StepWriter(self.log_dir)
        return self._experiment


class StepWriter(ExperimentWriter):
    """Keeps the last row and, when its step gets more values, writes it again in its place."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.size = 0  # bytes of the file before its last row

    def log_metrics(self, metrics_dict: Mapping[str, Any], step: int | None = None) -> None:
        """Add values to the row of the present step, or begin the row of another step."""
        super().log_metrics(metrics_dict, step)
        if len(self.metrics) > 1 and self.metrics[-2]["step"] == self.metrics[-1]["step"]:
            values = self.metrics.pop()
            self.metrics[-1].update(values)

    def save(self) -> None:
        """Write the rows. A new column rewrites the whole file."""
        if not self.metrics:
            return
        file = Path(self.metrics_file_path)
        names = sorted(set(self.metrics_keys).union(*self.metrics))
        if names == self.metrics_keys:
            text, last = self._text(self.metrics)
            with file.open("rb+") as opened:
                opened.seek(self.size)
                opened.write((text + last).encode())  # at once: no row is lost if the process is killed
                opened.truncate()
            self.size += len(text.encode())
        else:
            written = file.read_bytes()[: self.size].decode() if self.metrics_keys else ""
            self.metrics_keys = names
            text, last = self._text([*csv.DictReader(io.StringIO(written)), *self.metrics], header=True)
            atomic_write(file, lambda part: part.write_bytes((text + last).encode()))
            self.size = len(text.encode())
        self.metrics = self.metrics[-1:]

    def _text(self, rows: Sequence[Mapping[str, Any]], header: bool = False) -> tuple[str, str]:
        """All rows but the last one, and the last one."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.metrics_keys)
        if header:
            writer.writeheader()
        writer.writerows(rows[:-1])
        start = text.tell()
        writer.writerow(rows[-1])
        return text.getvalue()[:start], text.getvalue()[start:]
