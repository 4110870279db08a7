"""Progress of training, validation and test: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console

from data.batch import Batch
from runtime.lightning_internals import StepProgressBar
from runtime.progress import Every

log = logging.getLogger(__name__)


def build_progress(log_every: float) -> ProgressBar:
    """A progress bar if stdout is a terminal, else log lines at least `log_every` seconds apart."""
    return StepProgressBar() if Console().is_terminal else ProgressLines(log_every)


class Throughput:
    """Samples per second, without the time of pauses."""

    def __init__(self) -> None:
        self.samples = 0
        self.since = self.paused = time.monotonic()

    def pause(self) -> None:
        self.paused = time.monotonic()

    def resume(self) -> None:
        self.since += time.monotonic() - self.paused

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since

    def rate(self) -> float:
        """Samples per second since the last call."""
        rate = self.samples / self.seconds
        self.samples, self.since = 0, time.monotonic()
        return rate


class ProgressLines(ProgressBar):
    """Log lines of rank 0, so that a log is never silent for long.

    Every `log_every` seconds: step, loss, samples per second of all processes and time left in training, or the number
    of batches done in a validation or test. After each validation: its scores, and whether it is the best so far.
    The time left contains no validations.
    """

    def __init__(self, log_every: float) -> None:
        super().__init__()
        self.log_every = log_every
        self.is_enabled = True

    def disable(self) -> None:
        self.is_enabled = False

    def enable(self) -> None:
        self.is_enabled = True

    def _log(self, message: str, *values: object) -> None:
        if self.is_enabled:
            log.info(message, *values)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.first_step, self.total = trainer.global_step, int(trainer.estimated_stepping_batches)
        self._log("training: step %d of %d", self.first_step, self.total)
        self.recent, self.whole, self.timer = Throughput(), Throughput(), Every(self.log_every)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        self.recent.samples += len(batch)
        step = trainer.global_step
        if not self.is_enabled or step == self.first_step or not self.timer.is_due():
            return
        left = self.whole.seconds / (step - self.first_step) * (self.total - step)
        self._log(
            "step %d of %d: loss %.3f, %.1f samples/s, %s left", step, self.total,
            trainer.callback_metrics.get("train/loss", float("nan")), self.recent.rate() * trainer.world_size,
            timedelta(seconds=round(left)),
        )  # fmt: skip

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.timer = Every(self.log_every)
        if not trainer.sanity_checking:
            self.recent.pause(), self.whole.pause()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, batch_idx: int, *args: Any
    ) -> None:
        if not trainer.sanity_checking and self.timer.is_due():
            done, total = batch_idx + 1, sum(trainer.num_val_batches)
            self._log("validation after step %d: %d of %d batches", trainer.global_step, done, total)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self.recent.resume(), self.whole.resume()
        self.timer = Every(self.log_every)
        best = trainer.checkpoint_callback  # has not seen this validation yet: checkpoint callbacks come last
        scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        is_best = best.best_model_score is None or scores[best.monitor] > best.best_model_score
        outcome = "the best so far" if is_best else f"the best so far is {best.best_model_score:.3f}"
        names = sorted(scores, key=lambda name: name != best.monitor)
        listed = ", ".join(f"{name.removeprefix('val/')} {scores[name]:.3f}" for name in names)
        self._log("validation after step %d: %s; %s", trainer.global_step, listed, outcome)

    def on_test_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.timer = Every(self.log_every)
        self._log("test: %s", ", ".join(trainer.datamodule.test_splits))

    def on_test_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.timer.is_due():
            split, total = trainer.datamodule.test_splits[dataloader_idx], trainer.num_test_batches[dataloader_idx]
            self._log("test, %s: %d of %d batches", split, batch_idx + 1, total)
