"""Progress of training, validation and test: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from rich.console import Console

from data.batch import Batch
from runtime.lightning_internals import StepProgressBar
from runtime.progress import Every

log = logging.getLogger(__name__)


def build_progress(log_every: float) -> pl.Callback:
    """A progress bar if stdout is a terminal, else log lines at least `log_every` seconds apart."""
    return StepProgressBar() if Console().is_terminal else ProgressLines(log_every)


class Throughput(pl.Callback):
    """Counts samples and seconds of training, without the time of validations."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.samples, self.since = 0, time.monotonic()
        self.paused: float | None = None

    def on_train_batch_start(self, *args: Any) -> None:
        if self.paused is not None:  # not earlier: checkpoints follow a validation
            self.since += time.monotonic() - self.paused
            self.paused = None

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        self.samples += len(batch)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.paused = time.monotonic()

    def lap(self) -> tuple[int, float]:
        """Samples and seconds since the last call."""
        now = time.monotonic()
        lap = self.samples, now - self.since
        self.samples, self.since = 0, now
        return lap


class ProgressLines(Throughput):
    """Log lines, so that a log is never silent for long.

    Every `log_every` seconds: step, loss, samples per second of all processes and time left in training, or the number
    of batches done in a validation or test. After each validation: its scores, and whether it is the best so far.
    Speed and time left are without validations.
    """

    def __init__(self, log_every: float) -> None:
        self.log_every = log_every

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.step, self.n_steps = trainer.global_step, int(trainer.estimated_stepping_batches)
        log.info("training: step %d of %d", self.step, self.n_steps)
        super().on_train_start(trainer, module)
        self.timer = Every(self.log_every)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        super().on_train_batch_end(trainer, module, outputs, batch)
        step = trainer.global_step
        if step > self.step and self.timer.is_due():
            loss = float(trainer.callback_metrics.get("train/loss", "nan"))
            samples, seconds = self.lap()
            left = timedelta(seconds=round(seconds / (step - self.step) * (self.n_steps - step)))
            rate = samples * trainer.world_size / seconds
            log.info("step %d of %d: loss %.3f, %.1f samples/s, %s left", step, self.n_steps, loss, rate, left)
            self.step = step

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.timer = Every(self.log_every)
        super().on_validation_start(trainer, module)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, batch_idx: int, *args: Any
    ) -> None:
        done, total = batch_idx + 1, sum(trainer.num_val_batches)
        if not trainer.sanity_checking and done < total and self.timer.is_due():
            log.info("validation after step %d: %d of %d batches", trainer.global_step, done, total)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self.timer = Every(self.log_every)
        best = trainer.checkpoint_callback  # does not know this validation yet: checkpoint callbacks come last
        scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        is_best = best.best_model_score is None or scores[best.monitor] > best.best_model_score
        outcome = "the best so far" if is_best else f"the best so far is {best.best_model_score:.3f}"
        names = sorted(scores, key=lambda name: name != best.monitor)
        listed = ", ".join(f"{name.removeprefix('val/')} {scores[name]:.3f}" for name in names)
        log.info("validation after step %d: %s; %s", trainer.global_step, listed, outcome)

    def on_test_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.timer = Every(self.log_every)
        log.info("test: %s", ", ".join(trainer.datamodule.test_splits))

    def on_test_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        done, total = batch_idx + 1, trainer.num_test_batches[dataloader_idx]
        if done < total and self.timer.is_due():
            log.info("test, %s: %d of %d batches", trainer.datamodule.test_splits[dataloader_idx], done, total)
