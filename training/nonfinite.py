"""What happens where a loss or a gradient is infinite or not a number: the setting `on_nonfinite`."""

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

MAX_IN_A_ROW = 20  # without an update between them, after which a run is not disturbed but broken
SHOWN = 10


class NonFinite(pl.Callback):
    """Stops a run whose loss or gradient is not finite, naming the samples, or leaves these out and counts them.

    A batch whose loss is not finite gives nothing to its update; an update whose gradient is not finite, or that no
    batch gave anything to, is not made. In 16-mixed precision such gradients belong to the search for a scale, and the
    scaler leaves their updates out.

    All processes see the same gradient, and so leave out the same updates. A batch is left out by its own process;
    with trainer=fsdp it spoils its update.

    Args:
        on_nonfinite: "stop" or "skip".

    Raises:
        UserError: in training, with "stop" at the first such batch, with "skip" when MAX_IN_A_ROW came one after
            another, or when the statistics of a batch norm are no longer finite.
    """

    def __init__(self, on_nonfinite: str = "stop") -> None:
        check_choice(on_nonfinite, "on_nonfinite", ("stop", "skip"))
        self.on_nonfinite = on_nonfinite
        self.in_a_row = 0
        self.left_out: list[str] = []  # the samples of this epoch's left out batches and updates, this process's own
        self.ids: list[str] = []  # of its samples that the next update learns from
        self.without = 0  # how many batches give nothing to the next update

    def loss(self, module: pl.LightningModule, loss: Tensor, ids: list[str]) -> Tensor:
        """The batch's loss or, where that is not finite, one that has no gradient."""
        is_finite = bool(torch.isfinite(loss))
        # Processes that put weights together have to do so in all layers: there, the whole update is left out.
        is_left_to_update = isinstance(module.trainer.strategy, FullySharded) and self.on_nonfinite == "skip"
        if not is_finite and not is_left_to_update:
            self._stop_or_count(f"the loss of update {module.global_step + 1} is {float(loss.detach())}", ids)
        if not is_finite:
            _check_statistics(module, ids)
        if is_finite or is_left_to_update:
            self.ids += ids
            return loss
        self.left_out += ids
        self.without += 1
        # Not None: processes that average their gradients wait for those of each, and a scaler needs one.
        return torch.stack([(p.flatten()[:1] * 0).sum() for p in module.parameters() if p.requires_grad]).sum()

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Optimizer) -> None:
        norm = full_tensor(nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]))
        module.log("train/gradient_norm", norm)
        ids, without, self.ids, self.without = self.ids, self.without, [], 0
        if not torch.isfinite(norm):
            if trainer.precision == "16-mixed":
                return
            # Averaged over processes, of which each may have spoilt it.
            self._stop_or_count(
                f"the gradient of update {trainer.global_step + 1} is not finite", broadcast_object(gather(ids))
            )
            self.left_out += ids
            module.zero_grad()  # without gradients the optimizer leaves weights and averages as they are
        elif norm == 0 and trainer.strategy.reduce(torch.tensor(without, device=module.device), reduce_op="sum"):
            module.zero_grad()
        elif ids:  # a process that only leaves out is broken, though others make updates
            self.in_a_row = 0

    def _stop_or_count(self, what: str, ids: list[str]) -> None:
        remedy = "look at these rows, or lower optim.lr"
        if self.on_nonfinite == "stop":
            raise UserError(f"{what}, learning from the samples {_few(ids)}; {remedy}, or set on_nonfinite=skip")
        self.in_a_row += 1
        if self.in_a_row == MAX_IN_A_ROW:
            raise UserError(f"{what}, like {MAX_IN_A_ROW} in a row, learning from the samples {_few(ids)}; {remedy}")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        left_out, self.left_out = gather(self.left_out), []
        if left_out:
            log.warning(
                "training: left out, as loss or gradient was not finite: %d samples, among them %s",
                len(left_out),
                _few(left_out),
            )


def _check_statistics(module: nn.Module, ids: list[str]) -> None:
    for name, buffer in module.named_buffers():
        if not torch.isfinite(buffer).all():
            raise UserError(
                f"{name} is not finite since update {module.global_step + 1}; look at the samples {_few(ids)}, or "
                "set freezing.batch_norm=true"
            )


def _few(ids: list[str]) -> str:
    """The ids, or the first of very many."""
    return ", ".join(ids[:SHOWN]) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
