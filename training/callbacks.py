"""What a run tells its user: the written answers of a test, and the rows that were repaired or left out."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl
from PIL import Image

from data.batch import Batch
from tasks.base import Task
from training.evaluation import Answers, EvaluationModule

log = logging.getLogger(__name__)


class WriteAnswers(pl.Callback):
    """Writes what a test generates: `predictions.jsonl`, `metrics.json` and, for each split, `pictures_<split>.png`.

    Predictions are written as they come, so that an interrupted evaluation keeps what it has computed.

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

    def on_test_start(self, trainer: pl.Trainer, module: EvaluationModule) -> None:
        self.predictions = (self.folder / "predictions.jsonl").open("w", encoding="utf-8")
        self.pictures = {}

    def on_test_batch_end(
        self, trainer: pl.Trainer, module: EvaluationModule, outputs: Answers, *args: Any, **kwargs: Any
    ) -> None:
        batch, pictures = outputs.batch, self.pictures.setdefault(outputs.split, [])
        for i, (name, prediction) in enumerate(zip(batch.ids, outputs.predictions, strict=True)):
            record = {"split": outputs.split, "uniq_id": name, **dataclasses.asdict(prediction)}
            self.predictions.write(json.dumps(record, ensure_ascii=False) + "\n")
            if len(pictures) < self.n_pictures:
                image = None if batch.patch_images is None else batch.patch_images[i]
                pictures.append(self.task.draw(image, prediction, batch.truths[i]))
        self.predictions.flush()

    def on_test_end(self, trainer: pl.Trainer, module: EvaluationModule) -> None:
        metrics = {
            split: {name: float(value) for name, value in metric.compute().items()}
            for split, metric in module.metrics.items()
        }
        (self.folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        for split, pictures in self.pictures.items():
            if pictures:
                grid(pictures).save(self.folder / f"pictures_{split}.png")

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
    """Counts the notes that batches carry and says them at the end of an epoch: repaired rows by kind, skipped rows."""

    def __init__(self) -> None:
        self.notes: Counter[str] = Counter()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        self.notes.update(batch.notes)

    def on_validation_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        self.notes.update(batch.notes)

    def on_test_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        self.notes.update(batch.notes)

    def on_train_epoch_end(self, *args: Any) -> None:
        self._report()

    def on_validation_end(self, *args: Any) -> None:
        self._report()

    def on_test_end(self, *args: Any) -> None:
        self._report()

    def _report(self) -> None:
        skipped = {note: n for note, n in self.notes.items() if note.startswith("skipped ")}
        for note, count in (self.notes - Counter(skipped)).most_common():
            log.warning("%s: %d times", note, count)
        if skipped:
            shown = list(skipped)[:10]
            log.warning("%d broken rows were skipped, among them:\n  %s", sum(skipped.values()), "\n  ".join(shown))
        self.notes.clear()
