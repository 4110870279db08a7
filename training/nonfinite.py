"""Handling of losses and gradients that are infinite or NaN: the setting `on_nonfinite`."""

from __future__ import annotations

import logging

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ofa.config import check_choice
from ofa.errors import UserError
from runtime.collectives import broadcast_object, gather
from runtime.sharding import FullySharded, full_tensor

log = logging.getLogger(__name__)

MAX_IN_A_ROW = 20  # without an optimizer step in between; then the run is broken
SHOWN = 10


class NonFinite(pl.Callback):
    """Stops a run at a loss or gradient that is not finite, naming the samples, or skips and counts these samples.

    A batch whose loss is not finite does not contribute to its optimizer step. A step is skipped if its gradient is not
    finite or all of its batches are skipped. In 16-mixed precision such gradients are part of the search for a scale,
    and the gradient scaler skips their steps.

    All processes see the same gradient and so skip the same steps. A batch is skipped by its own process; with
    trainer=fsdp its whole step is skipped.

    Args:
        on_nonfinite: "stop" or "skip".

    Raises:
        UserError: in training: with "stop" at the first such batch; with "skip" after MAX_IN_A_ROW of them in a row, or
            if the running statistics of a batch norm are not finite.
    """

    def __init__(self, on_nonfinite: str = "stop") -> None:
        check_choice(on_nonfinite, "on_nonfinite", ("stop", "skip"))
        self.on_nonfinite = on_nonfinite
        self.in_a_row = 0
        self.skipped: list[str] = []  # ids of this process's samples skipped in this epoch
        self.ids: list[str] = []  # of this process's samples in the next step
        self.skipped_batches = 0  # of the next step

    def loss(self, module: pl.LightningModule, loss: Tensor, ids: list[str]) -> Tensor:
        """The loss of a batch; if it is not finite, one with zero gradients."""
        is_finite = bool(torch.isfinite(loss))
        # With sharded weights all processes have to run all layers: the gradient decides about the whole step.
        is_left_to_step = isinstance(module.trainer.strategy, FullySharded) and self.on_nonfinite == "skip"
        if not is_finite and not is_left_to_step:
            self._stop_or_count(f"the loss of step {module.global_step + 1} is {float(loss.detach())}", ids)
        if not is_finite:
            broken = [name for name, buffer in module.named_buffers() if not torch.isfinite(buffer).all()]
            if broken:
                raise UserError(
                    f"{broken[0]} is not finite since step {module.global_step + 1}; look at the samples "
                    f"{_few(ids)}, or set freezing.batch_norm=true"
                )
        if is_finite or is_left_to_step:
            self.ids += ids
            return loss
        self.skipped += ids
        self.skipped_batches += 1
        # Not None: the other processes wait for this one's gradients, and a gradient scaler needs them.
        return torch.stack([(p.flatten()[:1] * 0).sum() for p in module.parameters() if p.requires_grad]).sum()

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Optimizer) -> None:
        norm = full_tensor(nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]))
        module.log("train/gradient_norm", norm)
        ids, n_skipped, self.ids, self.skipped_batches = self.ids, self.skipped_batches, [], 0
        if not torch.isfinite(norm):
            if trainer.precision == "16-mixed":
                return
            # Averaged over processes: the samples of any of them may be the cause.
            what = f"the gradient of step {trainer.global_step + 1} is not finite"
            self._stop_or_count(what, broadcast_object(gather(ids)))
            self.skipped += ids
            module.zero_grad()  # without gradients the optimizer changes neither weights nor averages
        elif norm == 0 and trainer.strategy.reduce(torch.tensor(n_skipped, device=module.device), reduce_op="sum"):
            module.zero_grad()
        elif ids:  # a process that only skips is broken, even if others make steps
            self.in_a_row = 0

    def _stop_or_count(self, what: str, ids: list[str]) -> None:
        remedy = "look at these rows, or lower optim.lr"
        if self.on_nonfinite == "stop":
            raise UserError(f"{what}, with the samples {_few(ids)}; {remedy}, or set on_nonfinite=skip")
        self.in_a_row += 1
        if self.in_a_row == MAX_IN_A_ROW:
            raise UserError(f"{what}, like {MAX_IN_A_ROW} in a row, with the samples {_few(ids)}; {remedy}")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        skipped, self.skipped = gather(self.skipped), []
        if skipped:
            message = "training: %d samples skipped, as loss or gradient was not finite, among them %s"
            log.warning(message, len(skipped), _few(skipped))


def _few(ids: list[str]) -> str:
    """The ids, or the first SHOWN of them."""
    return ", ".join(ids[:SHOWN]) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
