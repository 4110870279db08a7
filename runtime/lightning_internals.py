"""The private parts of Lightning's loops that this project uses, all in this file. Checked against 2.6.6.

The two logger classes in tracking/ also set private fields of their Lightning base classes, which is how Lightning's
own subclasses of these loggers work.
"""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loops.evaluation_loop import RestartStage


def is_accumulating(trainer: pl.Trainer) -> bool:
    """Whether the batch that ends is not the last one of its optimizer step."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def start_with_validation(trainer: pl.Trainer) -> None:
    """Have training start with a whole validation; to be called in `on_train_start` of a resumed run."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop._restart_stage = RestartStage.RESTARTED_MID_EVALUATION
    loop.restarting = False  # from its first batch


class StepProgressBar(RichProgressBar):
    """Lightning's bar, which would show -2 as the last epoch if the length of a run is a number of steps."""

    def _get_train_description(self, current_epoch: int) -> str:
        return super()._get_train_description(current_epoch).replace("/-2", "")
