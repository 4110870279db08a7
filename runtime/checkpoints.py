"""Checkpoints: atomic files with checksums; the best by a score, and the last, from which a run resumes."""

from __future__ import annotations

import logging
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ofa.atomic_write import FULL, atomic_write
from ofa.checkpoint import LAST, read_file
from ofa.errors import UserError
from runtime.collectives import broadcast_object, rank
from runtime.lightning_internals import is_accumulating, start_with_validation

PREVIOUS = LAST.with_name("last.previous.ckpt")  # inside a run folder: the last checkpoint but one

log = logging.getLogger(__name__)


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints atomically; keeps the `last.ckpt` of an earlier step as `last.previous.ckpt`.

    A checkpoint is a zip archive whose directory, at its end, holds a checksum of each entry.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step: int | None = None  # of the `last.ckpt` that this object has written

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: None = None) -> None:
        """Replace the file from before when the new one is on disk.

        Raises:
            UserError: it cannot be written; the message names the checkpoint from which the run can resume.
        """
        path = Path(path)
        is_last = path.name == LAST.name
        # A state of the same step, such as that after its validation, replaces the one before it.
        previous = path.with_name(PREVIOUS.name) if is_last and checkpoint["global_step"] != self.step else None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, lambda part: _save(checkpoint, part), previous)
        except OSError as error:
            reason = FULL.get(error.errno, error.strerror)
            remedy = "free some space" if error.errno in FULL else f"make {path.parent} a writable folder"
            raise UserError(f"{path} was not written: {reason}; {remedy}, then {how_to_resume(path.parent)}") from error
        if is_last:
            self.step = checkpoint["global_step"]


def _save(checkpoint: dict[str, Any], file: Path) -> None:
    with file.open("wb") as opened:
        try:
            torch.save(checkpoint, opened)
        except RuntimeError as error:  # torch's, about the state in which a failed write has left it
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def how_to_resume(folder: Path) -> str:
    """What to do after a run could not write; `folder` has its checkpoints."""
    for name in (LAST.name, PREVIOUS.name):
        if (folder / name).is_file():
            return f"resume from {folder / name}, which is intact, by resume={folder.parent} or resume=auto"
    return "start again; there was no checkpoint yet"


def verify_checkpoint(file: Path) -> str | None:
    """What is wrong with a checkpoint, by its checksums; None: it is intact. Reads the whole file."""
    try:
        with zipfile.ZipFile(file) as archive:
            entry = archive.testzip()
        read_file(file)  # whether torch can read what Python's zipfile can
    except Exception as error:  # a damaged archive may raise anything
        return str(error) or type(error).__name__
    return None if entry is None else f"the checksum of its entry {entry} is wrong"


class BestCheckpoint(ModelCheckpoint):
    """The best checkpoint, by a logged score. A resumed run starts with the best one so far, copied to its folder.

    The best may be newer than the last, if a run was killed between the two: its score is read from the file itself.
    """

    def __init__(self, file: Path, score: str) -> None:
        super().__init__(file.parent, file.stem, monitor=score, mode="max", enable_version_counter=False)

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["callbacks"][self.state_key]
        old, new = (Path(folder, f"{self.filename}.ckpt") for folder in (Path(trainer.ckpt_path).parent, self.dirpath))
        reason = score = None
        if rank() == 0:  # only there, since the whole file is read
            reason = verify_checkpoint(old) if old.is_file() else "no such file"
            score = _state_of_best(old)["best_model_score"] if reason is None else None
        reason, score = broadcast_object((reason, score))
        if reason is None:
            if trainer.is_global_zero and old.resolve() != new.resolve():
                new.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(new, lambda part: shutil.copyfile(old, part))
        elif state["best_model_score"] is not None:
            log.warning("%s is lost (%s): the best checkpoint is chosen among future validations", old, reason)
        path = "" if score is None else str(new)
        state |= {
            "dirpath": self.dirpath,
            "best_model_path": path,
            "kth_best_model_path": path,
            "best_k_models": {} if score is None else {path: score},
            "best_model_score": score,
        }


def best_score(file: Path) -> float:
    """The score in a best checkpoint."""
    return float(_state_of_best(file)["best_model_score"])


def _state_of_best(file: Path) -> dict[str, Any]:
    states = read_file(file)["callbacks"]
    (state,) = (state for key, state in states.items() if key.startswith(BestCheckpoint.__name__))
    return state


class LastCheckpoint(Checkpoint):
    """Saves the state before and after each validation, and each `every` steps in between, when all callbacks are done.

    A run that resumes from the one before a validation starts with the validation. There is none where a validation
    falls between the batches of one optimizer step. In a run of one process, an error that a user has to correct, such
    as a data file that was changed, also leaves a checkpoint.
    """

    def __init__(self, file: Path, every: int | None) -> None:
        self.file, self.every = file, every
        self.step: int | None = None  # of the checkpoint; None: training has not begun
        self.validates_first = False  # whether a run that resumes from it starts with a validation
        self.stopped_early = False  # whether a callback had ended the training of the resumed run
        self.is_over = False  # whether this run only resumes with a validation after its last step

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.step = trainer.global_step
        trainer.should_stop |= self.stopped_early
        fit_loop = trainer.fit_loop
        if fit_loop.epoch_progress.current.processed == fit_loop.epoch_progress.current.ready:
            fit_loop.reset_restart_stage()  # or Lightning forgets to count the epoch that begins
        if self.validates_first:
            start_with_validation(trainer)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.validates_first = False
        if self.is_over:
            trainer.fit_loop.epoch_loop.max_steps -= 1
            self.is_over = False

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        is_time = self.every is not None and trainer.global_step % self.every == 0
        if is_time or _is_validated(trainer):
            self.save_after_step(trainer)

    def save_after_step(self, trainer: pl.Trainer) -> None:
        """Save the state at the end of a batch, if a run can resume from it and it is not saved yet."""
        if self.step == trainer.global_step or is_accumulating(trainer):
            return
        self.validates_first = _is_validated(trainer)
        self.save(trainer)
        self.validates_first = False

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["validates_first"] = self.validates_first
        checkpoint["stopped_early"] = trainer.should_stop

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.validates_first = checkpoint.get("validates_first", False)  # old checkpoints do not have it
        self.stopped_early = checkpoint.get("stopped_early", False)
        if self.validates_first:
            # It was saved in the last hook of a batch, after which Lightning counts the batch.
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            for counts in (progress["total"], progress["current"]):
                counts["completed"] = counts["processed"]
            self.is_over = checkpoint["global_step"] == trainer.max_steps
            if self.is_over:
                trainer.fit_loop.epoch_loop.max_steps += 1  # until the validation starts, or Lightning would do nothing

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self.save(trainer)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        batches = trainer.fit_loop.epoch_loop.batch_progress.current
        is_between = self.step is not None and trainer.training and batches.ready == batches.completed
        if is_between and isinstance(exception, UserError) and trainer.world_size == 1:
            if self.step != trainer.global_step:
                self.save(trainer)
            log.info("checkpoint of step %d: %s", self.step, self.file)

    def save(self, trainer: pl.Trainer) -> None:
        """Save the current state, which has to be one between two batches."""
        trainer.save_checkpoint(self.file, weights_only=False)  # given, or Lightning logs a hint in each run
        self.step = trainer.global_step


def _is_validated(trainer: pl.Trainer) -> bool:
    """Whether a validation follows the batch that ends."""
    return trainer.enable_validation and (trainer.fit_loop.total_batch_idx + 1) % trainer.val_check_batch == 0


class SaveAtEnd(pl.Callback):
    """Saves the last checkpoint when training ends, whether or not it ends with a validation."""

    def __init__(self, last: LastCheckpoint) -> None:
        self.last = last

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.last.save(trainer)
