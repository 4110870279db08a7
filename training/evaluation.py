"""Evaluation by generating answers: model and task in one Lightning module, with one metric for each split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Answer:
    """What came of one sample: its id, what was predicted, and what the task scores that by."""

    id: str
    prediction: Any
    truth: Any


@dataclass(frozen=True)
class Answers:
    """What a step hands to the callbacks: a split's name, a batch, and the answer to each of its samples."""

    split: str
    batch: Batch
    answers: list[Answer]


class EvaluationModule(pl.LightningModule):
    """Answers by beam search and scores with the task's metric, each sample once.

    Every process answers its share. The first one gathers all answers in the order of the data and scores them, so that
    a score is to the last digit that of a single process; the others are told.

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
        self.whole: OFAModel | None = None  # during an evaluation, the model, where processes have parts of it
        self.answers: dict[str, list[Answer]] = {}  # by split; when all is gathered, in the first process those of all
        self.unread: dict[str, list[str]] = {}  # by split, why this process has no answers
        self.metrics: dict[str, Metric] = {}  # by split, once all is gathered; a ModuleDict refuses "train"

    def answer(self, batch: Batch) -> list[Any]:
        """The task's prediction for each sample of a batch."""
        hypotheses = self.generate(batch)
        for name, found in zip(batch.ids, hypotheses, strict=True):
            if not found:
                raise UserError(f"no answer to {name} fits generation.max_len={self.generation.max_len}; raise it")
        return [self.task.decode(found[0], truth) for found, truth in zip(hypotheses, batch.truths, strict=True)]

    def generate(self, batch: Batch) -> list[list[Hypothesis]]:
        """What the model says to each sample, best first, without the prompt that the decoder starts with."""
        model = self.model if self.whole is None else self.whole
        return self.task.processor.generate(model, batch.inputs, batch.prefix_tokens, self.generation)

    def on_validation_epoch_start(self) -> None:
        self._start(["val"])

    def validation_step(self, batch: Batch, batch_idx: int) -> Answers:
        return Answers("val", batch, self._answered("val", batch))

    def on_validation_epoch_end(self) -> None:
        self.whole = None
        values = self._scores("val", self.task.metric())
        if self.task.monitor not in values and not self.trainer.sanity_checking:
            raise UserError("the rows of the validation split have no truth to score, by which to choose a checkpoint")
        for name, value in values.items():
            self.log(f"val/{name}", value, prog_bar=name == self.task.monitor)

    def on_test_epoch_start(self) -> None:
        self._start(self.trainer.datamodule.test_splits)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Answers:
        split = self.trainer.datamodule.test_splits[dataloader_idx]
        return Answers(split, batch, self._answered(split, batch))

    def on_test_epoch_end(self) -> None:
        self.whole = None
        for split in self.answers:
            for name, value in self._scores(split, self.task.test_metric()).items():
                self.log(f"{split}/{name}", value)

    def _start(self, splits: Sequence[str]) -> None:
        self.answers, self.unread, self.metrics = {split: [] for split in splits}, {}, {}
        broadcast_tensors(self.model.buffers())  # each process has statistics of its own batches
        if is_sharded(self.model):
            self.whole = full_model(self.model)

    def _answered(self, split: str, batch: Batch) -> list[Answer]:
        if not len(batch):  # all that its loader has
            self.unread[split] = batch.notes
        predictions = self.answer(batch) if len(batch) else []
        answers = [Answer(*parts) for parts in zip(batch.ids, predictions, batch.truths, strict=True)]
        self.answers[split] += answers
        return answers

    def _scores(self, split: str, metric: Metric) -> dict[str, Tensor]:
        """The scores of a split, by name, in every process; `metric` stays where it was computed, in the first one.

        Raises:
            UserError: in the first process, where not one row could be read.
        """
        self.answers[split] = gather(self.answers[split])
        unread = gather(self.unread.get(split, []))
        if unread and not self.answers[split] and self.global_rank == 0:
            raise UserError(f"none of {len(unread)} rows of {split} could be read; the first: {unread[0]}")
        values = None
        if self.global_rank == 0:
            metric.distributed_available_fn = lambda: False  # it has seen the answers of all processes
            self.metrics[split] = metric.to(self.device)
            for answer in self.answers[split]:
                self.task.score(metric, answer.prediction, answer.truth)
            values = {name: value.cpu() for name, value in metric.compute().items()}
        return broadcast_object(values)
