"""What a run tells its user: the written answers of a test, and the rows that were repaired or left out."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl

from data.batch import Batch
from tasks.base import Task
from training.evaluation import Answers, EvaluationModule

log = logging.getLogger(__name__)


class WriteAnswers(pl.Callback):
    """Writes what a test generates: `predictions.jsonl` and `metrics.json`.

    Predictions are written as they come, so that an interrupted evaluation keeps what it has computed. Tasks with a
    public evaluation server also get `results_<split>.json` in its format.

    Args:
        folder: where the files go.
        task: knows the format of its server and the details of its metric.
    """

    def __init__(self, folder: Path, task: Task) -> None:
        self.folder = folder
        self.task = task
        self.predictions: TextIO | None = None
        self.results: dict[str, dict[Any, dict[str, Any]]] = {}  # by split and id; the first of several is kept

    def on_test_start(self, trainer: pl.Trainer, module: EvaluationModule) -> None:
        self.predictions = (self.folder / "predictions.jsonl").open("w", encoding="utf-8")
        self.results = {}

    def on_test_batch_end(
        self, trainer: pl.Trainer, module: EvaluationModule, outputs: Answers, *args: Any, **kwargs: Any
    ) -> None:
        batch, results = outputs.batch, self.results.setdefault(outputs.split, {})
        for i, (name, prediction) in enumerate(zip(batch.ids, outputs.predictions, strict=True)):
            record = {"split": outputs.split, "uniq_id": name, **dataclasses.asdict(prediction)}
            self.predictions.write(json.dumps(record, ensure_ascii=False) + "\n")
            result = self.task.result(name, prediction, batch.truths[i])
            if result is not None:
                results.setdefault(next(iter(result.values())), result)
        self.predictions.flush()

    def on_test_end(self, trainer: pl.Trainer, module: EvaluationModule) -> None:
        metrics = {
            split: {name: float(value) for name, value in metric.compute().items()} | self.task.details(metric)
            for split, metric in module.metrics.items()
        }
        (self.folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        for split, results in self.results.items():
            if results:
                content = json.dumps(list(results.values()), ensure_ascii=False)
                (self.folder / f"results_{split}.json").write_text(content + "\n", encoding="utf-8")

    def teardown(self, trainer: pl.Trainer, module: EvaluationModule, stage: str) -> None:
        if self.predictions is not None:
            self.predictions.close()
            self.predictions = None


class SaveAtEnd(pl.Callback):
    """Saves a checkpoint when training ends, whether or not it ends at a validation."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.file, weights_only=False)  # said, or Lightning says it for each run


class ReportNotes(pl.Callback):
    """Counts the notes that batches carry: rows repaired, by kind, and rows skipped.

    Those of training are said at the end of each epoch, those of an evaluation when it ends.
    """

    def __init__(self) -> None:
        self.training: Counter[str] = Counter()
        self.evaluation: Counter[str] = Counter()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        self.training.update(batch.notes)

    def on_validation_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        self.evaluation.update(batch.notes)

    def on_test_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        self.evaluation.update(batch.notes)

    def on_train_epoch_end(self, *args: Any) -> None:
        report_notes("training", self.training)

    def on_validation_end(self, *args: Any) -> None:
        report_notes("validation", self.evaluation)

    def on_test_end(self, *args: Any) -> None:
        report_notes("test", self.evaluation)


def report_notes(stage: str, notes: Counter[str]) -> None:
    """Logs and empties the counts of one stage."""
    skipped = {note: count for note, count in notes.items() if note.startswith("skipped ")}
    for note, count in (notes - Counter(skipped)).most_common():
        log.warning("%s: %s, %d times", stage, note, count)
    if skipped:
        shown = "\n  ".join(list(skipped)[:10])
        log.warning("%s: broken rows skipped: %d, among them\n  %s", stage, sum(skipped.values()), shown)
    notes.clear()
