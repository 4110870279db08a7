"""Going on with an interrupted run as if it had not been interrupted: `resume=RUN`.

Lightning's checkpoints hold weights, their average, optimizer, schedule and position in data and loops; what they
lack is added here. A resumed run has a folder of its own, and the old one stays as it is.
"""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from ofa.checkpoint import BEST, LAST, read_config
from ofa.config import typed
from ofa.errors import UserError
from training.digest import digest

log = logging.getLogger(__name__)

# What may differ from the run that is resumed: it says where files lie and what is shown, and changes no update.
# (validate_every may not: it decides which checkpoint is the best. on_nonfinite may, since it only matters where a run
# cannot go on as it was.)
FREE = ("resume", "pictures", "logger", "on_nonfinite", "data.root", "data.num_workers", "data.worker_timeout",
        "data.eval_batch_size", "signals", "cluster",
        "trainer.log_every_n_steps", "trainer.enable_model_summary")  # fmt: skip


def checkpoint_to_resume(config: DictConfig, folder: Path) -> Path | None:
    """The last checkpoint of the run that `resume` names, if it does.

    Args:
        config: of the new run.
        folder: of the new run.

    Raises:
        UserError: there is no such run, it was another one, or its checkpoint is missing or damaged.
    """
    if config.resume is None:
        return None
    run = Path(config.resume)
    if not (run / "config.yaml").is_file():
        raise UserError(f"resume={run} is not the folder of a run: there is no {run / 'config.yaml'}")
    if run.resolve() == folder.resolve():
        raise UserError(f"resume={run} is hydra.run.dir, too; a resumed run needs another folder")
    for file in (run / BEST, run / LAST):
        if not file.is_file():
            raise UserError(f"resume={run}: there is no {file}, which the first validation writes; start the run anew")
    _check_same_run(config, run)
    read_config(run / LAST)  # whether it can be read
    return run / LAST


def _check_same_run(config: DictConfig, run: Path) -> None:
    before, now = (
        dict(_settings(OmegaConf.to_container(settings, resolve=True)))
        for settings in (OmegaConf.load(run / "config.yaml"), config)
    )
    for key in before | now:
        if not any(f"{key}.".startswith(f"{free}.") for free in FREE) and before.get(key) != now.get(key):
            raise UserError(
                f"{key}={typed(now.get(key))}, but resume={run} was started with {key}={typed(before.get(key))}; "
                "give the words it was started with, or start anew from its weights with init="
            )


def _settings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The full name of each setting, and its value."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class RestOfState(pl.Callback):
    """Keeps in checkpoints, as plain values and tensors: random states, gradients that wait, digests of files.

    The files that are learnt from have to be the same when the run goes on.

    A validation may come between the batches of one update, where an epoch is not a multiple of the accumulation.
    The position in the data is in the checkpoint; Lightning forgets to give it to a loader that was made early, to
    count the updates of the run.

    Args:
        files: that are learnt from, under the name by which an error is to call them.
    """

    def __init__(self, files: Mapping[str, Sequence[Path]]) -> None:
        self.files = {name: [digest(path) for path in paths] for name, paths in files.items()}
        self.position: dict[str, Any] | None = None  # in the data; None: not resumed
        self.gradients: dict[str, Tensor] = {}

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        name, numbers, *rest = np.random.get_state()
        checkpoint["random"] = {
            "python": random.getstate(),
            "numpy": (name, numbers.tolist(), *rest),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        }
        checkpoint["files"] = self.files
        waiting = module.named_parameters() if trainer.fit_loop.epoch_loop._should_accumulate() else ()
        checkpoint["gradients"] = {name: p.grad for name, p in waiting if p.grad is not None}

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        if not {"random", "files"} <= checkpoint.keys():
            raise UserError(
                f"{trainer.ckpt_path} was written before runs could be resumed; start anew from its weights with init="
            )
        for name, digests in self.files.items():
            if digests != checkpoint["files"].get(name):
                raise UserError(
                    f"the run of {trainer.ckpt_path} had another {name}; give the one it had, or start anew from its "
                    "weights with init="
                )
        states = checkpoint["random"]
        random.setstate(states["python"])
        np.random.set_state(states["numpy"])
        torch.set_rng_state(states["torch"])
        if states["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(states["cuda"])
        self.gradients = checkpoint["gradients"]
        (self.position,) = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
        log.info("going on behind update %d of %s", checkpoint["global_step"], trainer.ckpt_path)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.position is not None:
            trainer.train_dataloader.load_state_dict(self.position)
        for name, gradient in self.gradients.items():  # not earlier: Lightning empties them before it starts
            module.get_parameter(name).grad = gradient.to(module.device)
        self.gradients = {}


class BestCheckpoint(ModelCheckpoint):
    """The best checkpoint by a score; a resumed run starts with a copy of the best one so far."""

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["callbacks"][self.state_key]
        old, new = (Path(folder, f"{self.filename}.ckpt") for folder in (Path(trainer.ckpt_path).parent, self.dirpath))
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(old, new)
        state |= {
            "dirpath": self.dirpath,
            "best_model_path": str(new),
            "kth_best_model_path": str(new),
            "best_k_models": {str(new): state["best_model_score"]},
        }
