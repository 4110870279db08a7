"""Callbacks of training and evaluation: files of a test, data issues, early stopping."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl
from pytorch_lightning import callbacks

from data.batch import Batch
from ofa.atomic_write import atomic_write
from runtime.collectives import gather
from runtime.run_dir import METRICS
from tasks.base import Task
from tracking.sample_predictions import PredictionBatch, SamplePrediction
from training.evaluation import EvaluationModule

log = logging.getLogger(__name__)


class WritePredictions(pl.Callback):
    """Writes the results of a test: `predictions.jsonl` and `metrics.json`.

    Predictions are written after each batch, so that an interrupted evaluation keeps them. Each of several processes
    writes its own to `predictions.part<rank>.jsonl`, until rank 0 has all of them in the order of the data. Tasks with
    a public evaluation server also get `results_<split>.json` in its format.

    Args:
        folder: for the files; on several machines, a folder on each.
    """

    def __init__(self, folder: Path, task: Task) -> None:
        self.folder = folder
        self.task = task
        self.predictions: TextIO | None = None

    def on_test_start(self, trainer: pl.Trainer, module: EvaluationModule) -> None:
        name = "predictions.jsonl" if trainer.world_size == 1 else f"predictions.part{trainer.global_rank}.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.predictions = (self.folder / name).open("w", encoding="utf-8")

    def on_test_batch_end(
        self, trainer: pl.Trainer, module: EvaluationModule, outputs: PredictionBatch, *args: Any, **kwargs: Any
    ) -> None:
        self.predictions.write(prediction_lines(outputs.split, outputs.predictions))
        self.predictions.flush()

    def on_test_end(self, trainer: pl.Trainer, module: EvaluationModule) -> None:
        if trainer.is_global_zero:
            self._write_results(module)
        if trainer.world_size > 1:
            if trainer.is_global_zero:
                content = "".join(prediction_lines(*predicted) for predicted in module.predictions.items())
                atomic_write(self.folder / "predictions.jsonl", lambda part: part.write_text(content, "utf-8"))
            trainer.strategy.barrier()  # the parts are needed until here
            self.predictions.close()
            Path(self.predictions.name).unlink()
        if trainer.is_global_zero:  # last: this file marks a finished run
            metrics = {
                split: {name: float(value) for name, value in metric.compute().items()} | self.task.details(metric)
                for split, metric in module.metrics.items()
            }
            atomic_write(self.folder / METRICS, lambda part: part.write_text(json.dumps(metrics, indent=2) + "\n"))

    def _write_results(self, module: EvaluationModule) -> None:
        for split, predictions in module.predictions.items():
            results: dict[Any, dict[str, Any]] = {}  # by their first value, an id; the first of several is kept
            for sample in predictions:
                result = self.task.server_record(sample.id, sample.prediction, sample.truth)
                if result is not None:
                    results.setdefault(next(iter(result.values())), result)
            if results:
                content = json.dumps(list(results.values()), ensure_ascii=False)
                (self.folder / f"results_{split}.json").write_text(content + "\n", encoding="utf-8")

    def teardown(self, trainer: pl.Trainer, module: EvaluationModule, stage: str) -> None:
        if self.predictions is not None:
            self.predictions.close()
            self.predictions = None


def prediction_lines(split: str, predictions: Sequence[SamplePrediction]) -> str:
    """The lines of predictions.jsonl."""
    records = ({"split": split, "uniq_id": p.id, **dataclasses.asdict(p.prediction)} for p in predictions)
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


class ReportDataIssues(pl.Callback):
    """Counts the notes of batches: rows repaired, by kind, and rows skipped.

    Logs those of training at the end of each epoch, those of an evaluation at its end.
    """

    def __init__(self) -> None:
        self.training: Counter[str] = Counter()
        self.evaluation: Counter[str] = Counter()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        self.training.update(batch.notes)

    def on_validation_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        self.evaluation.update(batch.notes)

    on_test_batch_end = on_validation_batch_end

    def on_train_epoch_end(self, *args: Any) -> None:
        report_notes("training", self.training)

    def on_validation_end(self, *args: Any) -> None:
        report_notes("validation", self.evaluation)

    def on_test_end(self, *args: Any) -> None:
        report_notes("test", self.evaluation)


def report_notes(stage: str, own: Counter[str]) -> None:
    """Log and empty the counts of one stage, those of all processes."""
    notes = sum(gather([own]), Counter())
    own.clear()
    skipped = {note: count for note, count in notes.items() if note.startswith("skipped ")}
    for note, count in (notes - Counter(skipped)).most_common():
        log.warning("%s: %s, %d times", stage, note, count)
    if skipped:
        shown = "\n  ".join(list(skipped)[:10])
        log.warning("%s: broken rows skipped: %d, among them\n  %s", stage, sum(skipped.values()), shown)


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, on the score by which the best checkpoint is chosen.

    Args:
        patience: how many validations without a better score end training.
        min_delta: by how much a score has to be better.
    """

    def __init__(self, patience: int, min_delta: float = 0.0) -> None:
        super().__init__("", min_delta, patience, mode="max")

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, module, stage)
        self.monitor = trainer.checkpoint_callback.monitor

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.wait_count >= self.patience:
            log.info(
                "stopped early after step %d: %d validations without a better %s", trainer.global_step,
                self.wait_count, self.monitor.removeprefix("val/"),
            )  # fmt: skip
