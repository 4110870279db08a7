"""Going on with an interrupted run as if it had not been interrupted: `resume=RUN`, `resume=auto`.

Lightning's checkpoints hold weights, their average, optimizer, schedule, loss scaling and position in data and loops;
what they lack is added here. With a folder, the resumed run has one of its own, and the old one stays as it is; with
auto it goes on in place, by the command that it was started with.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ofa.checkpoint import LAST, read_config
from ofa.checkpoint.reading import read_outline
from ofa.config import typed
from ofa.errors import UserError
from runtime.checkpoint_io import PREVIOUS, verify_checkpoint
from runtime.collectives import gather, rank, world_size
from runtime.digest import digest
from runtime.run_dir import METRICS
from runtime.sharding import local_shard, shard_like

log = logging.getLogger(__name__)

AUTO = "auto"
CONFIG = "config.yaml"  # inside a run folder
DAMAGED = LAST.with_name("last.damaged.ckpt")  # inside a run folder: kept for whoever wants to know why

# What may differ from the run that is resumed: it says where files lie and what is shown or kept, and changes no
# update. (validate_every may not: it decides which checkpoint is the best. on_nonfinite may, since it only matters
# where a run cannot go on as it was.)
FREE = ("resume", "save_every", "pictures", "logger", "on_nonfinite", "data.root", "data.source",
        "data.revision", "data.num_workers", "data.worker_timeout", "data.eval_batch_size", "signals", "cluster",
        "trainer.log_every_n_steps",
        "trainer.enable_model_summary")  # fmt: skip


@dataclass(frozen=True)
class ResumePoint:
    """A run to go on with.

    Attributes:
        run: its folder.
        checkpoint: the one to go on from.
        step: how many updates it had made.
        validates_first: whether the validation behind these comes first, as LastCheckpoint keeps it.
        is_tested: whether nothing is left to do.
    """

    run: Path
    checkpoint: Path
    step: int
    validates_first: bool
    is_tested: bool


def find_resume_point(config: DictConfig, folder: Path) -> ResumePoint | None:
    """The run that `resume` names, if it does; with auto the one in `folder`, if that holds a checkpoint.

    A last checkpoint that is damaged is left for the one before, with a warning.

    Args:
        config: of the new run.
        folder: of the new run.

    Raises:
        UserError: there is no such run, it was another one, or it has no whole checkpoint; or the folder of the new run
            holds one already.
    """
    if config.resume == AUTO:
        return _open(config, folder) if _checkpoints(folder) else None
    run = None if config.resume is None else Path(config.resume)
    if run is not None and run.resolve() == folder.resolve():
        raise UserError(f"resume={run} is hydra.run.dir, too; give another folder, or go on in place: resume=auto")
    if _checkpoints(folder):
        raise UserError(
            f"hydra.run.dir={folder} holds the checkpoints of a run already; go on with it by resume=auto, or give "
            "another folder"
        )
    if run is None:
        return None
    if _checkpoints(run):
        return _open(config, run)
    if not (run / CONFIG).is_file():
        raise UserError(f"resume={run} is not the folder of a run: there is no {run / CONFIG}; give one, or auto")
    raise UserError(f"resume={run}: there is no {run / LAST}, which the first validation writes; start the run anew")


def _open(config: DictConfig, run: Path) -> ResumePoint:
    """The run in a folder that holds checkpoints."""
    _check_same_run(config, run)
    checkpoint = _whole_checkpoint(run)
    if config.resume == AUTO and checkpoint != run / LAST and (run / LAST).is_file():
        os.replace(run / LAST, run / DAMAGED)  # else the next checkpoint would put it in the place of the whole one
    read_config(checkpoint)  # whether it is one of a run
    state = read_outline(checkpoint)  # all of it was read above, for its checksums
    validates_first = state.get("validates_first", False)  # none in one of an older version
    return ResumePoint(run, checkpoint, state["global_step"], validates_first, (run / METRICS).is_file())


def _checkpoints(run: Path) -> list[Path]:
    """Those to go on from, the newest first."""
    return [run / name for name in (LAST, PREVIOUS) if (run / name).is_file()]


def _whole_checkpoint(run: Path) -> Path:
    reasons = []
    for file in _checkpoints(run):
        reason = verify_checkpoint(file)
        if reason is None:
            if file != run / LAST:
                reason = "".join(reasons) or f"{run / LAST} is not there"
                log.warning("%s: going on from the checkpoint before it, %s", reason, file)
            return file
        reasons.append(f"{file} is damaged ({reason})")
    raise UserError(f"{', and '.join(reasons)}; start the run anew in another folder")


def _check_same_run(config: DictConfig, run: Path) -> None:
    if not (run / CONFIG).is_file():
        raise UserError(f"{run} holds checkpoints, but no {CONFIG}, which says of what run; put it back there")
    before, now = (
        dict(_settings(OmegaConf.to_container(settings, resolve=True)))
        for settings in (OmegaConf.load(run / CONFIG), config)
    )
    for key in before | now:
        if not any(f"{key}.".startswith(f"{free}.") for free in FREE) and before.get(key) != now.get(key):
            raise UserError(
                f"{key}={typed(now.get(key))}, but the run of {run} was started with {key}={typed(before.get(key))}; "
                "give the words it was started with, or start anew from its weights with init="
            )


def _settings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The full name of each setting, and its value."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class SaveTrainingState(pl.Callback):
    """Keeps in checkpoints, as plain values and tensors, what belongs to each process, and digests of files.

    Of a process these are its random states and gradients that wait: a validation may come between the batches of one
    update, where an epoch is not a multiple of the accumulation.

    The files that are learnt from have to be the same when the run goes on. They are read for this once, not before the
    first checkpoint.

    The position in the data is in the checkpoint; Lightning forgets to give it to a loader that was made early, to
    count the updates of the run.

    Args:
        files: that are learnt from, under the name by which an error is to call them; or texts that identify them.
    """

    def __init__(self, files: Mapping[str, Sequence[Path | str]]) -> None:
        self.files = files
        self.position: dict[str, Any] | None = None  # in the data; None: not resumed
        self.gradients: dict[str, Tensor] = {}

    @cached_property
    def digests(self) -> dict[str, list[str]]:
        return {
            name: [digest(part) if isinstance(part, Path) else part for part in parts]
            for name, parts in self.files.items()
        }

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        waiting = module.named_parameters() if trainer.fit_loop.epoch_loop._should_accumulate() else ()
        gradients = {name: local_shard(p.grad) for name, p in waiting if p.grad is not None}
        if trainer.world_size > 1:  # to be sent between CPUs
            gradients = {name: gradient.cpu() for name, gradient in gradients.items()}
        checkpoint["processes"] = gather([{"random": random_states(), "gradients": gradients}])
        if trainer.is_global_zero:  # who writes the checkpoint
            checkpoint["files"] = self.digests

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        if not {"processes", "files"} <= checkpoint.keys():
            raise UserError(
                f"{trainer.ckpt_path} was written by an earlier version, which kept less of a run; start anew from its "
                "weights with init="
            )
        if len(checkpoint["processes"]) != world_size():
            raise UserError(
                f"the run of {trainer.ckpt_path} had {len(checkpoint['processes'])} processes, and this one has "
                f"{world_size()}; set trainer.devices and trainer.num_nodes to those it had"
            )
        for name, digests in self.digests.items() if trainer.is_global_zero else ():
            if digests != checkpoint["files"].get(name):
                raise UserError(
                    f"the run of {trainer.ckpt_path} had another {name}; give the one it had, or start anew from its "
                    "weights with init="
                )
        own = checkpoint["processes"][rank()]
        set_random_states(own["random"])
        self.gradients = own["gradients"]
        (self.position,) = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
        log.info("going on behind update %d of %s", checkpoint["global_step"], trainer.ckpt_path)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.position is not None:
            trainer.train_dataloader.load_state_dict(self.position)
        for name, gradient in self.gradients.items():  # not earlier: Lightning empties them before it starts
            parameter = module.get_parameter(name)
            parameter.grad = shard_like(parameter, gradient.to(module.device))
        self.gradients = {}


def random_states() -> dict[str, Any]:
    """The states of all random generators of this process, as plain values and tensors."""
    name, numbers, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, numbers.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Go back to what `random_states` returned."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
