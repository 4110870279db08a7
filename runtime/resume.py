"""Resuming an interrupted run as if it had not been interrupted.

With `resume=RUN` the resumed run has a folder of its own; with `resume=auto` the command of a run resumes it in place.
"""

from __future__ import annotations

import csv
import logging
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger, Logger
from torch import Tensor

from ofa.checkpoint import LAST, read_config, read_outline
from ofa.config import typed
from ofa.errors import UserError
from runtime.checkpoints import PREVIOUS, verify_checkpoint
from runtime.collectives import broadcast_object, gather, rank, world_size
from runtime.configuration import flatten, to_container
from runtime.digest import digests
from runtime.legacy_config import upgrade
from runtime.lightning_internals import is_accumulating
from runtime.run_dir import METRICS
from runtime.sharding import local_shard, shard_like

log = logging.getLogger(__name__)

AUTO = "auto"
CONFIG = "config.yaml"  # inside a run folder
DAMAGED = LAST.with_name("last.damaged.ckpt")  # inside a run folder: kept for inspection

# Settings that may differ from those of the resumed run: where files are, what is shown or kept. They change no
# step. (validate_every may not: it decides which checkpoint is the best. on_nonfinite may, since it only matters
# where a run cannot continue as it was.)
MAY_DIFFER = ("resume", "save_every", "pictures", "log_every", "logger", "on_nonfinite", "data.root", "data.source",
              "data.revision", "data.num_workers", "data.worker_timeout", "data.eval_batch_size", "signals", "cluster",
              "trainer.log_every_n_steps", "trainer.enable_model_summary")  # fmt: skip


@dataclass(frozen=True)
class ResumePoint:
    """A run to resume."""

    run: Path  # its folder
    checkpoint: Path
    step: int  # optimizer steps it had done
    validates_first: bool  # whether the validation after these steps comes first; LastCheckpoint saves it
    in_place: bool  # whether the resumed run uses the same folder
    is_tested: bool  # whether the run has its test scores

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do in its folder."""
        return self.in_place and self.is_tested


def find_resume_point(config: DictConfig, folder: Path) -> ResumePoint | None:
    """The run that `resume` names; with auto the one in `folder`, if that contains a checkpoint. All ranks call it.

    If the last checkpoint is damaged, the one before it is used, with a warning. `folder` is that of the new run.

    Raises:
        UserError: there is no such run, its settings differ, or it has no intact checkpoint; or the folder of the new
            run contains one already.
    """
    return broadcast_object(_find(config, folder) if rank() == 0 else None)


def _find(config: DictConfig, folder: Path) -> ResumePoint | None:
    if config.resume == AUTO:
        return _open(config, folder) if _checkpoints(folder) else None
    if not isinstance(config.resume, str | None):
        raise UserError(f"resume={typed(config.resume)} is neither the folder of a run nor auto")
    run = None if config.resume is None else Path(config.resume)
    if run is not None and run.resolve() == folder.resolve():
        raise UserError(f"resume={run} is hydra.run.dir, too; give another folder, or resume in place: resume=auto")
    if _checkpoints(folder):
        raise UserError(
            f"hydra.run.dir={folder} already contains the checkpoints of a run; resume it with resume=auto, or give "
            "another folder"
        )
    if run is None:
        return None
    if _checkpoints(run):
        return _open(config, run)
    if not (run / CONFIG).is_file():
        raise UserError(f"resume={run} is not the folder of a run: there is no {run / CONFIG}; give one, or auto")
    raise UserError(
        f"resume={run}: there is no {run / LAST}, which the first validation writes; start the run from scratch"
    )


def _open(config: DictConfig, run: Path) -> ResumePoint:
    _check_same_run(config, run)
    in_place = config.resume == AUTO
    checkpoint = _intact_checkpoint(run)
    if in_place and checkpoint != run / LAST and (run / LAST).is_file():
        os.replace(run / LAST, run / DAMAGED)  # or the next checkpoint would replace the intact one by it
    read_config(checkpoint)  # whether it is one of a run
    state = read_outline(checkpoint)  # the whole file was read above, for its checksums
    validates_first = state.get("validates_first", False)  # old checkpoints do not have it
    is_tested = (run / METRICS).is_file()
    return ResumePoint(run, checkpoint, state["global_step"], validates_first, in_place, is_tested)


def _checkpoints(run: Path) -> list[Path]:
    """Those from which a run can resume, the newest first."""
    return [run / name for name in (LAST, PREVIOUS) if (run / name).is_file()]


def _intact_checkpoint(run: Path) -> Path:
    reasons = []
    for file in _checkpoints(run):
        reason = verify_checkpoint(file)
        if reason is None:
            if file != run / LAST:
                reason = "".join(reasons) or f"there is no {run / LAST}"
                log.warning("%s: resuming from the checkpoint before it, %s", reason, file)
            return file
        reasons.append(f"{file} is damaged ({reason})")
    raise UserError(f"{', and '.join(reasons)}; start the run from scratch in another folder")


def _check_same_run(config: DictConfig, run: Path) -> None:
    if not (run / CONFIG).is_file():
        raise UserError(f"{run} contains checkpoints, but no {CONFIG} with the settings of their run; put it back")
    now = dict(flatten(to_container(config)))
    before = upgrade(to_container(OmegaConf.load(run / CONFIG)), now)
    for key in before | now:
        if not any(f"{key}.".startswith(f"{free}.") for free in MAY_DIFFER) and before.get(key) != now.get(key):
            raise UserError(
                f"{key}={typed(now.get(key))}, but the run of {run} was started with {key}={typed(before.get(key))}; "
                "repeat its overrides, or start a new run from its weights with init="
            )


class SaveTrainingState(pl.Callback):
    """Adds to checkpoints what Lightning does not save: the state of each process, and digests of the training files.

    The state of a process is its random states and accumulated gradients: a validation may come between the batches of
    one optimizer step, if an epoch is not a multiple of the accumulation. Training files have to be the same when the
    run resumes; they are not read for this before the first checkpoint.

    The position in the data is in the checkpoint already, but Lightning does not restore it to a loader that was
    created early, to count the steps of the run.

    Args:
        files: files the run is trained on, or texts that identify them, by the name that an error message gives them.
    """

    def __init__(self, files: Mapping[str, Sequence[Path | str]]) -> None:
        self.files = files
        self.position: dict[str, Any] | None = None  # in the data; None: not resumed
        self.gradients: dict[str, Tensor] = {}

    @cached_property
    def digests(self) -> dict[str, list[str]]:
        return {name: digests(parts) for name, parts in self.files.items()}

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        accumulated = module.named_parameters() if is_accumulating(trainer) else ()
        gradients = {name: local_shard(p.grad) for name, p in accumulated if p.grad is not None}
        if trainer.world_size > 1:  # to be sent between CPUs
            gradients = {name: gradient.cpu() for name, gradient in gradients.items()}
        checkpoint["processes"] = gather([{"random": random_states(), "gradients": gradients}])
        if trainer.is_global_zero:  # which writes the checkpoint
            checkpoint["files"] = self.digests

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        if not {"processes", "files"} <= checkpoint.keys():
            raise UserError(
                f"{trainer.ckpt_path} was written by an early version, which saved less of a run; start a new run from "
                "its weights with init="
            )
        if len(checkpoint["processes"]) != world_size():
            raise UserError(
                f"the run of {trainer.ckpt_path} had {len(checkpoint['processes'])} processes, and this one has "
                f"{world_size()}; set trainer.devices and trainer.num_nodes to those it had"
            )
        for name, found in self.digests.items() if trainer.is_global_zero else ():
            if found != checkpoint["files"].get(name):
                raise UserError(
                    f"the run of {trainer.ckpt_path} had another {name}; give the one it had, or start a new run from "
                    "its weights with init="
                )
        state = checkpoint["processes"][rank()]
        set_random_states(state["random"])
        self.gradients = state["gradients"]
        (self.position,) = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
        log.info("resuming after step %d of %s", checkpoint["global_step"], trainer.ckpt_path)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.position is not None:
            trainer.train_dataloader.load_state_dict(self.position)
        for name, gradient in self.gradients.items():  # not earlier: Lightning zeroes them before it starts
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
    """Restore what `random_states` returned."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def truncate_csv_logs(loggers: Iterable[Logger], step: int, validates_first: bool) -> None:
    """Keep the rows of the first `step` steps in each `metrics.csv`: a run that resumes in its folder repeats others.

    If it resumes with the validation after these steps, existing scores of that validation are removed as well.

    Lightning's writer deletes a file that it finds. Until the rows are written again they are in another file next to
    it, so that none is lost if this is interrupted.
    """
    for logger in loggers:
        if not isinstance(logger, CSVLogger):
            continue
        file = Path(logger.log_dir, "metrics.csv")
        aside = file.with_name("metrics.before.csv")
        if file.is_file() and not aside.is_file():
            os.replace(file, aside)
        if aside.is_file():
            complete, _, _ = aside.read_text().rpartition("\n")  # without a last row that was not written completely
            for cells in csv.DictReader(complete.splitlines()):
                last = int(cells["step"])  # counted from 0
                is_repeated = validates_first and last == step - 1
                row = {key: x for key, x in cells.items() if x and not (is_repeated and key.startswith("val/"))}
                if last < step:
                    logger.experiment.log_metrics(row, last)
            logger.save()
            aside.unlink()
