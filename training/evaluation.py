"""Evaluation by generating answers: model and task in one Lightning module, with one metric for each split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from torchmetrics import Metric

from data.batch import Batch
from ofa.errors import UserError
from ofa.generation import GenerationOptions, Hypothesis
from ofa.model import OFAModel
from tasks.base import Task


@dataclass
class Answers:
    """What a step hands to the callbacks: a split's name, a batch, and the prediction for each of its samples."""

    split: str
    batch: Batch
    predictions: list[Any]


class EvaluationModule(pl.LightningModule):
    """Answers by beam search and scores with the task's metric, each sample once.

    Args:
        model: the network.
        task: decodes and scores what the model generates.
        generation: how answers are generated.
    """

    def __init__(self, model: OFAModel, task: Task, generation: GenerationOptions) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.generation = generation
        self.metrics: dict[str, Metric] = {}  # by split, made when evaluation starts; a ModuleDict refuses "train"

    def answer(self, batch: Batch) -> list[Any]:
        """The task's prediction for each sample of a batch."""
        hypotheses = self.generate(batch)
        for name, found in zip(batch.ids, hypotheses, strict=True):
            if not found:
                raise UserError(f"no answer to {name} fits generation.max_len={self.generation.max_len}; raise it")
        return [self.task.decode(found[0], truth) for found, truth in zip(hypotheses, batch.truths, strict=True)]

    def generate(self, batch: Batch) -> list[list[Hypothesis]]:
        """What the model says to each sample, best first, without the prompt that the decoder starts with."""
        return self.task.search(self.model, batch.inputs, batch.prefix_tokens, self.generation)

    def on_validation_epoch_start(self) -> None:
        self._start_metrics({"val": self.task.metric()})

    def validation_step(self, batch: Batch, batch_idx: int) -> Answers:
        return self._score("val", batch)

    def on_validation_epoch_end(self) -> None:
        values = self.metrics["val"].compute()
        if self.task.best not in values and not self.trainer.sanity_checking:
            raise UserError("the rows of the validation split have no truth to score, by which to choose a checkpoint")
        for name, value in values.items():
            self.log(f"val/{name}", value, prog_bar=name == self.task.best)

    def on_test_epoch_start(self) -> None:
        self._start_metrics({split: self.task.test_metric() for split in self.trainer.datamodule.test_splits})

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Answers:
        return self._score(self.trainer.datamodule.test_splits[dataloader_idx], batch)

    def on_test_epoch_end(self) -> None:
        for split, metric in self.metrics.items():
            for name, value in metric.compute().items():
                self.log(f"{split}/{name}", value)

    def _start_metrics(self, metrics: dict[str, Metric]) -> None:
        self.metrics = {split: metric.to(self.device) for split, metric in metrics.items()}

    def _score(self, split: str, batch: Batch) -> Answers:
        predictions = self.answer(batch)
        for prediction, truth in zip(predictions, batch.truths, strict=True):
            self.task.score(self.metrics[split], prediction, truth)
        return Answers(split, batch, predictions)
