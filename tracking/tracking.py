"""Values that every logger gets besides losses and scores: configuration, provenance, speed, memory, best score."""

from __future__ import annotations

import resource
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from data.batch import Batch
from tracking.progress import Throughput
from tracking.provenance import provenance

GIB = 1 << 30


class Tracking(Throughput):
    """Sends to every logger, from rank 0:

    - at the start, the composed configuration, the git commit and the versions of packages;
    - every `trainer.log_every_n_steps` steps, the samples per second of all processes, without the time of
      validations, and the peak memory in GiB: resident, and of the GPU since the last time;
    - at the end, the best score.

    Step numbers are Lightning's, which start at 0.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            settings = {**self.config, "provenance": provenance()}
            for logger in trainer.loggers:
                logger.log_hyperparams(settings)
                if isinstance(logger, TensorBoardLogger):  # whose page does not show hyperparameters
                    text = textwrap.indent(OmegaConf.to_yaml(settings), " " * 4)  # a Markdown code block
                    logger.experiment.add_text("configuration", text, trainer.global_step)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_train_start(trainer, module)
        self.logged = trainer.global_step  # step of the last time

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        super().on_train_batch_end(trainer, module, outputs, batch)
        step = trainer.global_step
        if step == self.logged or step % trainer.log_every_n_steps or not trainer.is_global_zero:
            return
        samples, seconds = self.lap()
        rate = samples * trainer.world_size / seconds
        values = {"speed/samples_per_second": rate, "memory/resident_peak_gib": peak_resident_bytes() / GIB}
        if module.device.type == "cuda":
            values["memory/gpu_peak_gib"] = torch.cuda.max_memory_allocated(module.device) / GIB
            torch.cuda.reset_peak_memory_stats(module.device)
        log_all(trainer.loggers, values, step - 1)
        self.logged = step

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        best = trainer.checkpoint_callback
        if trainer.is_global_zero and best.best_model_score is not None:
            log_all(trainer.loggers, {f"best/{best.monitor}": float(best.best_model_score)}, trainer.global_step)

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        for logger in trainer.loggers:
            if stage == "test" and isinstance(logger, WandbLogger):
                logger.experiment.finish()  # otherwise the next run of a sweep would continue it


def peak_resident_bytes() -> int:
    """The peak resident memory of this process, without its data workers."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def log_all(loggers: list[Logger], values: dict[str, float], step: int) -> None:
    """Log values of a step to every logger, and have it write them."""
    for logger in loggers:
        logger.log_metrics(values, step)
        logger.save()
