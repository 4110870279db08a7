"""Values that every logger gets besides losses and scores: configuration, provenance, speed, memory, best score."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from data.batch import Batch
from tracking.progress import Throughput

GIB = 1 << 30
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torchvision", "pytorch-lightning", "transformers", "timm", "hydra-core", "ofa-lightning")


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


def provenance() -> dict[str, Any]:
    """The commit of the code, and the versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}  # with the CUDA version
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # it is used from its folder, without being installed
            versions[package] = None
    return {"git": git_state(ROOT), "versions": versions}


def git_state(root: Path) -> dict[str, Any] | None:
    """The commit checked out in `root`, and whether tracked files differ from it; None if it is not a repository."""
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "HEAD")
    if top is None or commit is None or Path(top) != root:  # an installed copy may be inside another repository
        return None
    return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}


def _git(root: Path, *arguments: str) -> str | None:
    """The output of git; None if git is missing or fails."""
    try:
        process = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return process.stdout.strip() if process.returncode == 0 else None
