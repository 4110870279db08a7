"""The training step: model, task and criterion in one Lightning module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from criterions.base import AllowedIds, Criterion, Loss
from criterions.distillation.criterion import DistillationCriterion
from data.batch import Batch
from ofa.errors import UserError
from ofa.generation import GenerationOptions
from ofa.model import OFAModel
from runtime.collectives import all_reduce_sum, world_size
from tasks.base import Task
from training.evaluation import EvaluationModule
from training.freezing import Freezing
from training.nonfinite import NonFinite
from training.optim import Optim


class TrainingModule(EvaluationModule):
    """Minimizes the criterion; validates and tests as its base class does.

    Args:
        allowed: the ids that targets may have; None: the answers of the task, or the whole vocabulary.
        on_nonfinite: reaction to a loss or gradient that is not finite, see NonFinite.
    """

    def __init__(
        self,
        model: OFAModel,
        task: Task,
        generation: GenerationOptions,
        criterion: Criterion | DistillationCriterion,
        optim: Optim,
        freezing: Freezing,
        *,
        allowed: AllowedIds | None = None,
        on_nonfinite: str = "stop",
    ) -> None:
        super().__init__(model, task, generation)
        self.criterion = criterion
        self.allowed = allowed or AllowedIds(model.config.vocab_size, tree=task.processor.tree)
        self.optim = optim
        self.freezing = freezing
        self.nonfinite = NonFinite(on_nonfinite)
        # Kept in checkpoints, so that one can be loaded without its configuration.
        self.save_hyperparameters({"model": model.config.to_dict()}, logger=False)  # Tracking informs the loggers
        freezing.apply(model)
        self.train()  # Lightning does not call it, it only restores the mode of each part after an evaluation

    def train(self, mode: bool = True) -> TrainingModule:
        super().train(mode)
        self.freezing.keep_in_evaluation_mode(self.model)
        return self

    def configure_callbacks(self) -> list[pl.Callback]:
        return [self.nonfinite]

    @contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """The model in evaluation mode, for sequences that a training step generates."""
        training = self.training
        self.model.eval()
        yield
        self.train(training)
        torch.clear_autocast_cache()  # the forward pass must not reuse casts that have no graph

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.global_rank > 0:  # its own dropout; rank 0 draws as a single process does
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The share of this process in the mean loss over the batches of all processes.

        Gradients are averaged over processes, which have different numbers of tokens: each mean is over all tokens,
        except those of batches that are skipped because their loss is not finite.
        """
        loss = self.loss(batch)
        if not isinstance(loss, Loss) or not loss.sum.requires_grad:
            raise UserError(
                f"{type(self.criterion).__name__} has to return a criterions.base.Loss whose sum depends on the logits"
            )
        terms = torch.stack([term.detach().float() for term in loss.terms.values()])
        own = torch.cat([terms.new_tensor([loss.sample_size]), terms])
        size, *totals = all_reduce_sum(own if torch.isfinite(loss.sum) else torch.zeros_like(own))
        if size:  # else there is no mean to log
            for name, total in zip(loss.terms, totals, strict=True):
                self.log(f"train/{name}", total / size, batch_size=len(batch), prog_bar=name == "loss")
        return self.nonfinite.loss(self, loss.sum * world_size() / size, batch.ids)

    def loss(self, batch: Batch) -> Loss:
        """The criterion's loss of a batch."""
        targets = self.allowed.targets(batch.target)
        if self.criterion.passes == 2:
            batch, targets = batch.twice(), targets.repeat(2)
        encoded = self.model.encoder(batch.input_ids, batch.patch_images, batch.patch_masks)
        hidden = self.model.decoder(batch.decoder_input_ids, encoded).last_hidden_state
        logits = self.model.logits(hidden[targets.valid], targets.ids)  # not computed at padding
        return self.criterion(logits, targets, self.global_step, batch.weights)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.optim.optimizer(self, fused="mixed" not in self.trainer.precision)
        schedule = self.optim.schedule(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"}}
