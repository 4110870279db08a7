"""Evaluation by generation: model and task in one Lightning module, with one metric for each split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torchmetrics import Metric

from data.batch import Batch
from ofa.errors import UserError
from ofa.generation import GenerationOptions, Hypothesis
from ofa.model import OFAModel
from runtime.collectives import broadcast_object, broadcast_tensors, gather
from runtime.sharding import full_model, is_sharded
from tasks.base import Task
from tracking.sample_predictions import PredictionBatch, SamplePrediction


class EvaluationModule(pl.LightningModule):
    """Generates predictions and scores them with the task's metric, each sample once.

    Each process predicts its shard. Rank 0 gathers all predictions in the order of the data, scores them, so that a
    score equals that of a single process to the last digit, and broadcasts the scores.
    """

    def __init__(self, model: OFAModel, task: Task, generation: GenerationOptions) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.generation = generation
        self.full_model: OFAModel | None = None  # during an evaluation of a sharded model
        self.predictions: dict[str, list[SamplePrediction]] = {}  # by split; at its end, on rank 0 those of all ranks
        self.unreadable: dict[str, list[str]] = {}  # by split: why this process has no predictions
        self.metrics: dict[str, Metric] = {}  # by split, at its end on rank 0; a ModuleDict refuses "train"

    def predict(self, batch: Batch) -> list[Any]:
        """The task's prediction for each sample of a batch."""
        hypotheses = self.generate(batch)
        for name, found in zip(batch.ids, hypotheses, strict=True):
            if not found:
                raise UserError(f"no answer to {name} fits generation.max_len={self.generation.max_len}; raise it")
        return [self.task.decode(found[0], truth) for found, truth in zip(hypotheses, batch.truths, strict=True)]

    def generate(self, batch: Batch) -> list[list[Hypothesis]]:
        """The hypotheses of each sample, best first, without the prompt the decoder starts with."""
        model = self.model if self.full_model is None else self.full_model
        return self.task.processor.generate(model, batch.inputs, batch.prefix_tokens, self.generation)

    def on_validation_epoch_start(self) -> None:
        self._start(["val"])

    def validation_step(self, batch: Batch, batch_idx: int) -> PredictionBatch:
        return self._evaluate("val", batch)

    def on_validation_epoch_end(self) -> None:
        self.full_model = None
        values = self._scores("val", self.task.metric())
        if self.task.monitor not in values and not self.trainer.sanity_checking:
            raise UserError("the rows of the validation split have no truth to score, by which to choose a checkpoint")
        for name, value in values.items():
            self.log(f"val/{name}", value, prog_bar=name == self.task.monitor)

    def on_test_epoch_start(self) -> None:
        self._start(self.trainer.datamodule.test_splits)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> PredictionBatch:
        return self._evaluate(self.trainer.datamodule.test_splits[dataloader_idx], batch)

    def on_test_epoch_end(self) -> None:
        self.full_model = None
        for split in self.predictions:
            for name, value in self._scores(split, self.task.test_metric()).items():
                self.log(f"{split}/{name}", value)

    def _start(self, splits: Sequence[str]) -> None:
        self.predictions, self.unreadable, self.metrics = {split: [] for split in splits}, {}, {}
        broadcast_tensors(self.model.buffers())  # batch norm statistics differ between processes
        if is_sharded(self.model):
            self.full_model = full_model(self.model)

    def _evaluate(self, split: str, batch: Batch) -> PredictionBatch:
        if not len(batch):  # the loader's only batch: none of its rows could be read
            self.unreadable[split] = batch.notes
        found = self.predict(batch) if len(batch) else []
        predictions = [SamplePrediction(*parts) for parts in zip(batch.ids, found, batch.truths, strict=True)]
        self.predictions[split] += predictions
        return PredictionBatch(split, batch, predictions)

    def _scores(self, split: str, metric: Metric) -> dict[str, Tensor]:
        """The scores of a split by name, on every rank; `metric` stays on rank 0, where it was computed.

        Raises:
            UserError: on rank 0, if not one row could be read.
        """
        self.predictions[split] = gather(self.predictions[split])
        unreadable = gather(self.unreadable.get(split, []))
        if unreadable and not self.predictions[split] and self.global_rank == 0:
            raise UserError(f"none of {len(unreadable)} rows of {split} could be read; the first: {unreadable[0]}")
        values = None
        if self.global_rank == 0:
            metric.distributed_available_fn = lambda: False  # it has the predictions of all processes
            self.metrics[split] = metric.to(self.device)
            for sample in self.predictions[split]:
                self.task.score(metric, sample.prediction, sample.truth)
            values = {name: value.cpu() for name, value in metric.compute().items()}
        return broadcast_object(values)
