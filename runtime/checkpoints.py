"""Which checkpoints a run keeps: the best by a score, and the last, from which it goes on."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.loops.evaluation_loop import RestartStage

from ofa.atomic_write import atomic_write
from ofa.checkpoint.reading import read_file
from ofa.errors import UserError
from runtime.checkpoint_io import verify_checkpoint
from runtime.collectives import broadcast_object, rank

log = logging.getLogger(__name__)


class BestCheckpoint(ModelCheckpoint):
    """The best checkpoint by a score. A resumed run starts with the best one so far, copied to its folder.

    The best may be younger than the last, where a run was killed between the two: its score is the one it says itself.

    Args:
        file: where to.
        score: under which name it is logged; the higher, the better.
    """

    def __init__(self, file: Path, score: str) -> None:
        super().__init__(file.parent, file.stem, monitor=score, mode="max", enable_version_counter=False)

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["callbacks"][self.state_key]
        old, new = (Path(folder, f"{self.filename}.ckpt") for folder in (Path(trainer.ckpt_path).parent, self.dirpath))
        # Asked of one process, for all of the file is read.
        reason = broadcast_object(
            (verify_checkpoint(old) if old.is_file() else "it is not there") if rank() == 0 else None
        )
        score = None
        if reason is None:
            score = broadcast_object(_state_of_best(old)["best_model_score"] if rank() == 0 else None)
            if trainer.is_global_zero and old.resolve() != new.resolve():
                new.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(new, lambda part: shutil.copyfile(old, part))
        elif state["best_model_score"] is not None:
            log.warning("%s is lost (%s): the best checkpoint is chosen among the coming validations", old, reason)
        path = "" if score is None else str(new)
        state |= {
            "dirpath": self.dirpath,
            "best_model_path": path,
            "kth_best_model_path": path,
            "best_k_models": {} if score is None else {path: score},
            "best_model_score": score,
        }


def best_score(file: Path) -> float:
    """The score by which a best checkpoint was chosen, as the file says."""
    return float(_state_of_best(file)["best_model_score"])


def _state_of_best(file: Path) -> dict[str, Any]:
    states = read_file(file)["callbacks"]
    (state,) = (state for key, state in states.items() if key.startswith(BestCheckpoint.__name__))
    return state


class LastCheckpoint(Checkpoint):
    """Saves the state before and behind each validation, and every so many updates between.

    From the one before a validation, a run goes on with the validation. There is none where that falls between the
    batches of one update.

    Lightning has such callbacks come last, so that all others have done their part of the batch. In a run of one
    process, an error that a user has to correct, such as a data file that was changed, also leaves a checkpoint.

    Args:
        file: where to.
        every: how many updates; None: at validations alone.
    """

    def __init__(self, file: Path, every: int | None) -> None:
        self.file = file
        self.every = every
        self.step: int | None = None  # of the checkpoint; None: training has not begun
        self.validates_first = False  # whether the run that goes on from it starts with a validation
        self.stopped_early = False  # whether a callback had ended the training of the run that is resumed
        self.is_over = False  # whether this run goes on with a validation that no update follows on

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.step = trainer.global_step
        trainer.should_stop |= self.stopped_early
        fit_loop = trainer.fit_loop
        if fit_loop.epoch_progress.current.processed == fit_loop.epoch_progress.current.ready:
            fit_loop.reset_restart_stage()  # or Lightning forgets to count the epoch that begins
        if self.validates_first:
            val_loop = fit_loop.epoch_loop.val_loop
            val_loop._restart_stage = RestartStage.RESTARTED_MID_EVALUATION  # so it is what Lightning does next
            val_loop.restarting = False  # from its first batch on

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
        """Save the state at the end of a batch, where that is one to go on from and not saved yet."""
        loop = trainer.fit_loop.epoch_loop
        if self.step == trainer.global_step or loop._should_accumulate():
            return
        self.validates_first = _is_validated(trainer)
        self.save(trainer)
        self.validates_first = False

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["validates_first"] = self.validates_first
        checkpoint["stopped_early"] = trainer.should_stop

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.validates_first = checkpoint.get("validates_first", False)  # none in one of an older version
        self.stopped_early = checkpoint.get("stopped_early", False)
        if self.validates_first:
            # It was saved in the last hook of a batch, and Lightning counts the batch behind that.
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
            log.info("the state behind update %d is in %s", self.step, self.file)

    def save(self, trainer: pl.Trainer) -> None:
        """Save the present state, which has to be one between two batches."""
        trainer.save_checkpoint(self.file, weights_only=False)  # said, or Lightning says it for each run
        self.step = trainer.global_step


def _is_validated(trainer: pl.Trainer) -> bool:
    """Whether a validation follows on the batch that ends."""
    return trainer.enable_validation and (trainer.fit_loop.total_batch_idx + 1) % trainer.val_check_batch == 0


class SaveAtEnd(pl.Callback):
    """Saves the last checkpoint when training ends, whether or not it ends at a validation."""

    def __init__(self, last: LastCheckpoint) -> None:
        self.last = last

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.last.save(trainer)
