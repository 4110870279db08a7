"""Sample predictions as images and tables, in the run folder and in every logger that can show them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from data.batch import Batch
from runtime.collectives import gather
from tasks.base import Task

Drawn = list[tuple[dict[str, Any], Image.Image]]  # fields of each prediction, and its image


@dataclass(frozen=True)
class SamplePrediction:
    """One evaluated sample: its id, the prediction, and the ground truth the task scores it by."""

    id: str
    prediction: Any
    truth: Any


@dataclass(frozen=True)
class PredictionBatch:
    """The output of an evaluation step: name of the split, the batch, and one prediction for each of its samples."""

    split: str
    batch: Batch
    predictions: list[SamplePrediction]


class LogSamplePredictions(pl.Callback):
    """Logs the first predictions of each validation and of each test split, as images and as a table.

    Those of a test are also written to `pictures_<split>.png`. Rank 0 logs the first predictions of all ranks.

    Args:
        n_images: how many predictions of each split are logged.
    """

    def __init__(self, folder: Path, task: Task, n_images: int) -> None:
        self.folder = folder
        self.task = task
        self.n_images = n_images
        self.drawn: dict[str, Drawn] = {}  # by split

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.drawn = {"val": []}

    def on_test_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.drawn = {split: [] for split in trainer.datamodule.test_splits}

    def on_validation_batch_end(self, trainer: pl.Trainer, module: Any, outputs: PredictionBatch, *args: Any) -> None:
        if trainer.sanity_checking:
            return
        drawn, images = self.drawn[outputs.split], outputs.batch.patch_images
        for i, sample in enumerate(outputs.predictions[: self.n_images - len(drawn)]):
            fields = {"uniq_id": sample.id, **dataclasses.asdict(sample.prediction)}
            image = None if images is None else images[i]
            drawn.append((fields, self.task.draw(image, sample.prediction, sample.truth)))

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._log(trainer, trainer.global_step - 1)  # with the scores of this validation

    def on_test_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for split, drawn in self._log(trainer, trainer.global_step).items():
            grid([image for _, image in drawn]).save(self.folder / f"pictures_{split}.png")

    def _log(self, trainer: pl.Trainer, step: int) -> dict[str, Drawn]:
        """Log what was drawn; rank 0 returns it by split, without empty splits."""
        first = {split: gather(own)[: self.n_images] for split, own in self.drawn.items()}
        logged = {split: drawn for split, drawn in first.items() if drawn and trainer.is_global_zero}
        for split, drawn in logged.items():
            for logger in trainer.loggers:
                log_predictions(logger, split, drawn, step)
        return logged


def log_predictions(logger: Logger, split: str, predictions: Drawn, step: int) -> None:
    """Log images and a table to one logger; file loggers have the run folder."""
    images = [image for _, image in predictions]
    fields = list(predictions[0][0])
    cells = [[v if isinstance(v, str | float) else json.dumps(v) for v in values.values()] for values, _ in predictions]
    if isinstance(logger, TensorBoardLogger):
        sheet = np.asarray(grid(images))
        logger.experiment.add_image(f"answers/{split}", sheet, step, dataformats="HWC")
        rows = [fields, ["---"] * len(fields), *cells]  # of a Markdown table
        table = "\n".join(" | ".join(str(cell).replace("|", r"\|") for cell in row) for row in rows)
        logger.experiment.add_text(f"predictions/{split}", table, step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, grid(images), artifact_file=f"answers/{split}_{step}.png")
        table = {"columns": fields, "data": cells}
        logger.experiment.log_dict(logger.run_id, table, artifact_file=f"predictions/{split}_{step}.json")
    elif isinstance(logger, WandbLogger):
        logger.log_image(f"answers/{split}", images, step, caption=[values["uniq_id"] for values, _ in predictions])
        logger.log_table(f"predictions/{split}", fields, cells, step=step)


def grid(images: list[Image.Image], columns: int = 4) -> Image.Image:
    """Images of one size, side by side in rows of `columns`."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (width * min(columns, len(images)), height * rows), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet
