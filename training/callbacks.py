"""What a run tells its user: the written answers of a test, and the rows that were repaired or left out."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger

from data.batch import Batch
from ofa.whole_file import write_whole
from tasks.base import Task
from training.evaluation import Answers, EvaluationModule

log = logging.getLogger(__name__)

METRICS = "metrics.json"  # inside a run folder


class WriteAnswers(pl.Callback):
    """Writes what a test generates: `predictions.jsonl`, `metrics.json` and, for each split, `pictures_<split>.png`.

    Predictions are written as they come, so that an interrupted evaluation keeps what it has computed. Tasks with a
    public evaluation server also get `results_<split>.json` in its format. Pictures go to TensorBoard, too.

    Args:
        folder: where the files go.
        task: draws the pictures.
        n_pictures: how many answers of each split a picture shows.
    """

    def __init__(self, folder: Path, task: Task, n_pictures: int) -> None:
        self.folder = folder
        self.task = task
        self.n_pictures = n_pictures
        self.predictions: TextIO | None = None
        self.pictures: dict[str, list[Image.Image]] = {}
        self.results: dict[str, dict[Any, dict[str, Any]]] = {}  # by split and id; the first of several is kept

    def on_test_start(self, trainer: pl.Trainer, module: EvaluationModule) -> None:
        self.predictions = (self.folder / "predictions.jsonl").open("w", encoding="utf-8")
        self.pictures, self.results = {}, {}

    def on_test_batch_end(
        self, trainer: pl.Trainer, module: EvaluationModule, outputs: Answers, *args: Any, **kwargs: Any
    ) -> None:
        batch, pictures = outputs.batch, self.pictures.setdefault(outputs.split, [])
        results = self.results.setdefault(outputs.split, {})
        for i, (name, prediction) in enumerate(zip(batch.ids, outputs.predictions, strict=True)):
            record = {"split": outputs.split, "uniq_id": name, **dataclasses.asdict(prediction)}
            self.predictions.write(json.dumps(record, ensure_ascii=False) + "\n")
            result = self.task.result(name, prediction, batch.truths[i])
            if result is not None:
                results.setdefault(next(iter(result.values())), result)
            if len(pictures) < self.n_pictures:
                image = None if batch.patch_images is None else batch.patch_images[i]
                pictures.append(self.task.draw(image, prediction, batch.truths[i]))
        self.predictions.flush()

    def on_test_end(self, trainer: pl.Trainer, module: EvaluationModule) -> None:
        metrics = {
            split: {name: float(value) for name, value in metric.compute().items()} | self.task.details(metric)
            for split, metric in module.metrics.items()
        }
        for split, pictures in self.pictures.items():
            if pictures:
                sheet = grid(pictures)
                sheet.save(self.folder / f"pictures_{split}.png")
                for logger in trainer.loggers:
                    if isinstance(logger, TensorBoardLogger):
                        logger.experiment.add_image(f"answers/{split}", np.asarray(sheet), dataformats="HWC")
        for split, results in self.results.items():
            if results:
                content = json.dumps(list(results.values()), ensure_ascii=False)
                (self.folder / f"results_{split}.json").write_text(content + "\n", encoding="utf-8")
        content = json.dumps(metrics, indent=2) + "\n"
        write_whole(
            self.folder / METRICS, lambda part: part.write_text(content)
        )  # comes last: a run with it is finished

    def teardown(self, trainer: pl.Trainer, module: EvaluationModule, stage: str) -> None:
        if self.predictions is not None:
            self.predictions.close()
            self.predictions = None


def grid(pictures: list[Image.Image], columns: int = 4) -> Image.Image:
    """Pictures of one size, side by side in rows of `columns`."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (width * min(columns, len(pictures)), height * rows), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * width, i // columns * height))
    return sheet


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
