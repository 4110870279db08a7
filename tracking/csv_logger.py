"""CSV logger with one row per step."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
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
    """Keeps the last row to write it again, in its place, when its step gets more values."""

    size = 0  # bytes of the file before its last row

    def log_metrics(self, metrics_dict: Mapping[str, Any], step: int | None = None) -> None:
        """Add values to the last row if it is of this step, else add a row."""
        super().log_metrics(metrics_dict, step)
        if len(self.metrics) > 1 and self.metrics[-2]["step"] == self.metrics[-1]["step"]:
            values = self.metrics.pop()
            self.metrics[-1].update(values)

    def save(self) -> None:
        """Write the rows; a new column rewrites the whole file."""
        if not self.metrics:
            return
        file, text, rows = Path(self.metrics_file_path), io.StringIO(newline=""), self.metrics
        names = sorted(set(self.metrics_keys).union(*rows))
        writer = csv.DictWriter(text, names)
        if names != self.metrics_keys:
            before = file.read_bytes()[: self.size].decode() if self.metrics_keys else ""
            rows, self.metrics_keys, self.size = [*csv.DictReader(io.StringIO(before)), *rows], names, 0
            writer.writeheader()
        writer.writerows(rows[:-1])
        start, size_before_last = self.size, self.size + len(text.getvalue().encode())
        writer.writerow(rows[-1])
        content = text.getvalue().encode()
        if start == 0:
            atomic_write(file, lambda part: part.write_bytes(content))
        else:
            with file.open("rb+") as opened:
                opened.seek(start)
                opened.write(content)  # at once, so that a killed process loses no row
                opened.truncate()
        self.size, self.metrics = size_before_last, self.metrics[-1:]
