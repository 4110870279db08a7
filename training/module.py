"""The training step: model, task and criterion in one Lightning module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from criterions.distillation.criterion import DistillationCriterion
from criterions.label_smoothing import LabelSmoothedCrossEntropy, Loss
from criterions.self_critical import SelfCritical
from data.batch import Batch
from ofa.generation import GenerationOptions
from ofa.model import OFAModel
from runtime.collectives import all_reduce_sum, world_size
from tasks.base import Task
from training.evaluation import EvaluationModule
from training.freezing import Freezing
from training.nonfinite import NonFinite
from training.optim import Optim


class TrainingModule(EvaluationModule):
    """Minimises the criterion; validates and tests as its base class does.

    Args:
        model: the network to train.
        task: decodes and scores what the model generates.
        generation: how answers are generated.
        criterion: the loss.
        optim: optimizer and schedule.
        freezing: which parts of the network stay as they are.
        on_nonfinite: what a loss or gradient that is not finite does, see NonFinite.
    """

    def __init__(
        self,
        model: OFAModel,
        task: Task,
        generation: GenerationOptions,
        criterion: LabelSmoothedCrossEntropy | SelfCritical | DistillationCriterion,
        optim: Optim,
        freezing: Freezing,
        *,
        on_nonfinite: str = "stop",
    ) -> None:
        super().__init__(model, task, generation)
        self.criterion = criterion
        self.optim = optim
        self.freezing = freezing
        self.nonfinite = NonFinite(on_nonfinite)
        # Kept in checkpoints, so that one can be loaded without its configuration.
        self.save_hyperparameters({"model": model.config.to_dict()}, logger=False)  # loggers are told by Tracking
        freezing.apply(model)
        self.train()  # Lightning does not call it, only restores each part's mode after an evaluation

    def train(self, mode: bool = True) -> TrainingModule:
        super().train(mode)
        self.freezing.keep_in_evaluation_mode(self.model)
        return self

    def configure_callbacks(self) -> list[pl.Callback]:
        return [self.nonfinite]

    @contextmanager
    def answering(self) -> Iterator[None]:
        """The model in evaluation mode, for what a training step generates before it learns."""
        training = self.training
        self.model.eval()
        yield
        self.train(training)
        torch.clear_autocast_cache()  # else the forward pass may find half-precision weights made without a graph

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.global_rank > 0:  # dropout of its own; the first has the numbers of a single process
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean loss of the batches of all processes, as far as it depends on this one.

        The processes' gradients are averaged, and some have more tokens than others: each mean is of all tokens but
        those of batches that are left out, since their loss is not finite.
        """
        loss = self.loss(batch)
        terms = torch.stack([term.detach().float() for term in loss.terms.values()])
        own = torch.cat([terms.new_tensor([loss.sample_size]), terms])
        size, *totals = all_reduce_sum(own if torch.isfinite(loss.sum) else torch.zeros_like(own))
        if size:  # else there is no mean to log
            for name, total in zip(loss.terms, totals, strict=True):
                self.log(f"train/{name}", total / size, batch_size=len(batch), prog_bar=name == "loss")
        return self.nonfinite.loss(self, loss.sum * world_size() / size, batch.ids)

    def loss(self, batch: Batch) -> Loss:
        """The criterion's loss of a batch."""
        if self.criterion.passes == 2:
            batch = batch.twice()
        encoded = self.model.encoder(batch.input_ids, batch.patch_images, batch.patch_masks)
        hidden = self.model.decoder(batch.decoder_input_ids, encoded).last_hidden_state
        return self.criterion(
            self.model, hidden, batch.target, self.global_step, weights=batch.weights, tree=self.task.processor.tree
        )

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.optim.optimizer(self, fused="mixed" not in self.trainer.precision)
        schedule = self.optim.schedule(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"}}
