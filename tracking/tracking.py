"""What every logger is told beside losses and scores: what a run was made with, its speed, its memory, its end."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from data.batch import Batch
from tracking.memory import peak_resident_bytes
from tracking.provenance import provenance

GIB = 1 << 30


class Tracking(pl.Callback):
    """Sends to every logger, from the first process alone:

    - at the start, the composed configuration, the git commit and the versions of packages;
    - every `trainer.log_every_n_steps` updates, the samples a second of all processes, without the time of
      validations, and the most memory needed: GiB resident, and of the GPU since the last time;
    - at the end, the best score.

    Steps are those under which Lightning logs: update 1 is step 0.

    Args:
        config: the composed configuration.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.samples = 0  # of this process, since
        self.since = 0.0  # in seconds, validations taken out
        self.paused = 0.0  # when the present validation began
        self.logged = 0  # the update of the last time

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            made_with = {**self.config, "provenance": provenance()}
            for logger in trainer.loggers:
                logger.log_hyperparams(made_with)
                if isinstance(logger, TensorBoardLogger):  # which keeps these in a file that its page does not show
                    text = textwrap.indent(OmegaConf.to_yaml(made_with), " " * 4)  # Markdown for "as it stands"
                    logger.experiment.add_text("configuration", text, trainer.global_step)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.samples, self.since, self.logged = 0, time.perf_counter(), trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        self.samples += len(batch)
        update = trainer.global_step
        if update == self.logged or update % trainer.log_every_n_steps or not trainer.is_global_zero:
            return
        now = time.perf_counter()
        rate = self.samples * trainer.world_size / (now - self.since)
        values = {"speed/samples_per_second": rate, "memory/resident_peak_gib": peak_resident_bytes() / GIB}
        if module.device.type == "cuda":
            values["memory/gpu_peak_gib"] = torch.cuda.max_memory_allocated(module.device) / GIB
            torch.cuda.reset_peak_memory_stats(module.device)
        log_all(trainer.loggers, values, update - 1)
        self.samples, self.since, self.logged = 0, now, update

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.paused = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.since += time.perf_counter() - self.paused

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        best = trainer.checkpoint_callback
        if trainer.is_global_zero and best.best_model_score is not None:
            log_all(trainer.loggers, {f"best/{best.monitor}": float(best.best_model_score)}, trainer.global_step)

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        for logger in trainer.loggers:
            if stage == "test" and isinstance(logger, WandbLogger):
                logger.experiment.finish()  # or the next run of a sweep would go on with it


def log_all(loggers: list[Logger], values: dict[str, float], step: int) -> None:
    """One row in every logger."""
    for logger in loggers:
        logger.log_metrics(values, step)
        logger.save()
