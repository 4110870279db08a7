"""Sample answers for people to look at, in the run folder and in every logger that can show them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from runtime.collectives import gather
from tasks.base import Task
from training.evaluation import Answers, EvaluationModule


class LogSamplePredictions(pl.Callback):
    """Shows the first answers of each validation and of each split of a test, as pictures and as a table.

    Those of a test are written to `pictures_<split>.png`, too. Of several processes, the first one shows the first
    answers of all.

    Args:
        folder: where the files go.
        task: draws the pictures.
        n_pictures: how many answers of each split are shown.
    """

    def __init__(self, folder: Path, task: Task, n_pictures: int) -> None:
        self.folder = folder
        self.task = task
        self.n_pictures = n_pictures
        self.drawn: dict[str, list[tuple[dict[str, Any], Image.Image]]] = {}  # by split: fields of answers and pictures

    def on_validation_start(self, trainer: pl.Trainer, module: EvaluationModule) -> None:
        self.drawn = {"val": []}

    def on_test_start(self, trainer: pl.Trainer, module: EvaluationModule) -> None:
        self.drawn = {split: [] for split in trainer.datamodule.test_splits}

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: EvaluationModule, outputs: Answers, *args: Any
    ) -> None:
        if not trainer.sanity_checking:
            self._draw(outputs)

    def on_test_batch_end(self, trainer: pl.Trainer, module: EvaluationModule, outputs: Answers, *args: Any) -> None:
        self._draw(outputs)

    def on_validation_end(self, trainer: pl.Trainer, module: EvaluationModule) -> None:
        if not trainer.sanity_checking:
            self._show(trainer, trainer.global_step - 1)  # with the scores of this validation

    def on_test_end(self, trainer: pl.Trainer, module: EvaluationModule) -> None:
        for split, drawn in self._show(trainer, trainer.global_step).items():
            grid([picture for _, picture in drawn]).save(self.folder / f"pictures_{split}.png")

    def _draw(self, outputs: Answers) -> None:
        drawn, images = self.drawn[outputs.split], outputs.batch.patch_images
        for i, answer in enumerate(outputs.answers[: self.n_pictures - len(drawn)]):
            fields = {"uniq_id": answer.id, **dataclasses.asdict(answer.prediction)}
            image = None if images is None else images[i]
            drawn.append((fields, self.task.draw(image, answer.prediction, answer.truth)))

    def _show(self, trainer: pl.Trainer, step: int) -> dict[str, list[tuple[dict[str, Any], Image.Image]]]:
        """Shows what was drawn; in the first process it is returned by split, where there is any."""
        first = {split: gather(own)[: self.n_pictures] for split, own in self.drawn.items()}
        shown = {split: drawn for split, drawn in first.items() if drawn and trainer.is_global_zero}
        for split, drawn in shown.items():
            for logger in trainer.loggers:
                show(logger, split, drawn, step)
        return shown


def show(logger: Logger, split: str, answers: list[tuple[dict[str, Any], Image.Image]], step: int) -> None:
    """The answers in one logger, as pictures and as a table; those of files have the run folder."""
    pictures = [picture for _, picture in answers]
    fields = list(answers[0][0])
    cells = [[_cell(value) for value in answer.values()] for answer, _ in answers]
    if isinstance(logger, TensorBoardLogger):
        sheet = np.asarray(grid(pictures))
        logger.experiment.add_image(f"answers/{split}", sheet, step, dataformats="HWC")
        logger.experiment.add_text(f"predictions/{split}", markdown_table(fields, cells), step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, grid(pictures), artifact_file=f"answers/{split}_{step}.png")
        table = {"columns": fields, "data": cells}
        logger.experiment.log_dict(logger.run_id, table, artifact_file=f"predictions/{split}_{step}.json")
    elif isinstance(logger, WandbLogger):
        logger.log_image(f"answers/{split}", pictures, step, caption=[answer["uniq_id"] for answer, _ in answers])
        logger.log_table(f"predictions/{split}", fields, cells, step=step)


def _cell(value: Any) -> str | float:
    """A field of an answer as a table shows it."""
    return value if isinstance(value, str | float) else json.dumps(value)


def markdown_table(fields: list[str], cells: list[list[str | float]]) -> str:
    """A table with a heading, as TensorBoard shows it."""
    rows = [fields, ["---"] * len(fields), *cells]
    return "\n".join(" | ".join(str(cell).replace("|", r"\|") for cell in row) for row in rows)


def grid(pictures: list[Image.Image], columns: int = 4) -> Image.Image:
    """Pictures of one size, side by side in rows of `columns`."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (width * min(columns, len(pictures)), height * rows), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * width, i // columns * height))
    return sheet
