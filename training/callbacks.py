"""What a run tells its user: the written answers of a test, and the rows that were repaired or left out."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from data.batch import Batch
from ofa.atomic_write import atomic_write
from runtime.collectives import gather
from runtime.run_dir import METRICS
from tasks.base import Task
from tracking.predictions import PredictionBatch, SamplePrediction
from training.evaluation import EvaluationModule

log = logging.getLogger(__name__)


class ProgressBar(RichProgressBar):
    """Lightning's, which calls the last epoch -2 where the length of a run is a number of updates."""

    def _get_train_description(self, current_epoch: int) -> str:
        return super()._get_train_description(current_epoch).replace("/-2", "")


class WritePredictions(pl.Callback):
    """Writes what a test generates: `predictions.jsonl` and `metrics.json`.

    Predictions are written as they come, so that an interrupted evaluation keeps what it has computed. Of several
    processes each writes its own, into `predictions.part<rank>.jsonl`, until the first one has them all in order.
    Tasks with a public evaluation server also get `results_<split>.json` in its format.

    Args:
        folder: where the files go; of several processes on several machines, a folder of each.
        task: knows the format of its server and the details of its metric.
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
        self.predictions.writelines(prediction_line(outputs.split, answer) for answer in outputs.predictions)
        self.predictions.flush()

    def on_test_end(self, trainer: pl.Trainer, module: EvaluationModule) -> None:
        if trainer.is_global_zero:
            self._write_results(module)
        if trainer.world_size > 1:
            if trainer.is_global_zero:
                atomic_write(self.folder / "predictions.jsonl", lambda part: _write(part, module.predictions))
            trainer.strategy.barrier()  # only then are the parts of no more use
            self.predictions.close()
            Path(self.predictions.name).unlink()
        if trainer.is_global_zero:
            self._write_scores(module)  # last: a run that has them is finished

    def _write_scores(self, module: EvaluationModule) -> None:
        metrics = {
            split: {name: float(value) for name, value in metric.compute().items()} | self.task.details(metric)
            for split, metric in module.metrics.items()
        }
        content = json.dumps(metrics, indent=2) + "\n"
        atomic_write(self.folder / METRICS, lambda part: part.write_text(content))

    def _write_results(self, module: EvaluationModule) -> None:
        for split, answers in module.predictions.items():
            results: dict[Any, dict[str, Any]] = {}  # by the id they start with; the first of several is kept
            for answer in answers:
                result = self.task.result(answer.id, answer.prediction, answer.truth)
                if result is not None:
                    results.setdefault(next(iter(result.values())), result)
            if results:
                content = json.dumps(list(results.values()), ensure_ascii=False)
                (self.folder / f"results_{split}.json").write_text(content + "\n", encoding="utf-8")

    def teardown(self, trainer: pl.Trainer, module: EvaluationModule, stage: str) -> None:
        if self.predictions is not None:
            self.predictions.close()
            self.predictions = None


def prediction_line(split: str, answer: SamplePrediction) -> str:
    """An answer as a line of predictions.jsonl."""
    record = {"split": split, "uniq_id": answer.id, **dataclasses.asdict(answer.prediction)}
    return json.dumps(record, ensure_ascii=False) + "\n"


def _write(file: Path, answers: Mapping[str, Sequence[SamplePrediction]]) -> None:
    with file.open("w", encoding="utf-8") as opened:
        opened.writelines(prediction_line(split, answer) for split, found in answers.items() for answer in found)


class ReportDataIssues(pl.Callback):
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


def report_notes(stage: str, own: Counter[str]) -> None:
    """Logs and empties the counts of one stage, those of all processes."""
    notes = sum(gather([own]), Counter())
    own.clear()
    skipped = {note: count for note, count in notes.items() if note.startswith("skipped ")}
    for note, count in (notes - Counter(skipped)).most_common():
        log.warning("%s: %s, %d times", stage, note, count)
    if skipped:
        shown = "\n  ".join(list(skipped)[:10])
        log.warning("%s: broken rows skipped: %d, among them\n  %s", stage, sum(skipped.values()), shown)
