"""Lightning's trainer for a configuration, and the files of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import EMAWeightAveraging, LearningRateMonitor
from pytorch_lightning.loggers import Logger

from data.module import OFADataModule
from ofa.atomic_write import atomic_write
from ofa.checkpoint import BEST, EXPORT, LAST, export, load_weights
from ofa.errors import UserError
from ofa.model import OFAModel
from ofa.processors.settings import to_task_settings
from ofa.tokenizer import Tokenizer
from runtime.checkpoints import BestCheckpoint, CheckpointFiles, LastCheckpoint, SaveAtEnd, best_score
from runtime.collectives import rank
from runtime.configuration import instantiate, to_container
from runtime.launching import Environment, devices_of
from runtime.lightning_internals import StepProgressBar
from runtime.preemption import StopOnSignal, signals_of
from runtime.resume import CONFIG, ResumePoint, SaveTrainingState, truncate_csv_logs
from runtime.sharding import full_model
from tasks.base import Task
from tracking.progress import build_progress
from tracking.sample_predictions import LogSamplePredictions
from tracking.tracking import Tracking
from training.callbacks import ReportDataIssues, WritePredictions
from training.distillation.plan import DistillationPlan
from training.module import TrainingModule


def test_callbacks(config: DictConfig, task: Task, folder: Path) -> list[pl.Callback]:
    """Callbacks of a test: progress, data issues, predictions and sample images."""
    callbacks = [build_progress(config.log_every), ReportDataIssues(), WritePredictions(folder, task)]
    return [*callbacks, LogSamplePredictions(folder, task, config.pictures)] if config.pictures else callbacks


def training_files(data: OFADataModule, distillation: DistillationPlan | None) -> dict[str, Sequence[Path | str]]:
    """The files that training reads, by their description, for SaveTrainingState."""
    files = {"training file (data)": data.source.depends_on("train")}
    if data.teacher_answers is not None:
        files["file of answers (distill.predictions)"] = [data.teacher_answers.path]
    if distillation is not None:
        files["teacher (distill.teacher)"] = distillation.weight_files
    return files


def training_callbacks(
    config: DictConfig,
    task: Task,
    folder: Path,
    files: Mapping[str, Sequence[Path | str]],
    chosen: Sequence[pl.Callback] = (),
) -> list[pl.Callback]:
    """Callbacks of a test, and those for learning rates, tracking and checkpoints.

    Args:
        files: the files that training reads, as `training_files` returns them.
        chosen: those of `build_callbacks`.
    """
    last = LastCheckpoint(folder / LAST, config.save_every)
    callbacks = [
        *test_callbacks(config, task, folder),
        LearningRateMonitor("step"),
        Tracking(to_container(config)),
        SaveTrainingState(files),
        BestCheckpoint(folder / BEST, f"val/{task.monitor}"),
        *chosen,  # after the best checkpoint, which is trainer.checkpoint_callback; before the last
        last,
        SaveAtEnd(last),
    ]
    if config.ema.decay is not None:
        # After SaveAtEnd: at the end of training it replaces the weights by their average.
        callbacks.append(EMAWeightAveraging(decay=config.ema.decay))
    # After the average as well, which changes at the end of each step.
    return [*callbacks, StopOnSignal(signals_of(config.signals), last)]


def build_callbacks(config: DictConfig) -> list[pl.Callback]:
    """The callbacks of the group `callbacks`.

    Raises:
        UserError: an entry cannot be made, or is not a callback.
    """
    callbacks = []
    for name, settings in config.callbacks.items():
        if not OmegaConf.is_dict(settings) or "_target_" not in settings:
            raise UserError(f"callbacks.{name} has no _target_; set it to the class of a Lightning callback")
        callbacks.append(instantiate(settings))
        if not isinstance(callbacks[-1], pl.Callback):
            raise UserError(f"callbacks.{name}: {settings._target_} is not a Lightning callback")
    return callbacks


def build_loggers(config: DictConfig, interrupted: ResumePoint | None = None) -> list[Logger]:
    """The chosen loggers; none of them has written anything yet.

    Args:
        interrupted: the run that is resumed; None: the loggers start from scratch, whatever the folder contains.
    """
    loggers = config.get("logger")  # Hydra leaves the group out where none is chosen
    if not loggers:
        raise UserError("logger=[] names no logger; choose one or several of csv, tensorboard, wandb, mlflow")
    if "mlflow" in loggers and find_spec("mlflow") is None:
        raise UserError('logger=mlflow needs a package that is not installed: pip install -e ".[mlflow]"')
    # TensorBoard hides what older files in the folder have from this step on.
    more: dict[str, dict[str, Any]] = {"tensorboard": {"purge_step": 0 if interrupted is None else interrupted.step}}
    if interrupted is not None:
        more |= dict.fromkeys(("wandb", "mlflow"), {"interrupted": str(interrupted.run)})
    return [instantiate(settings, **more.get(name, {})) for name, settings in loggers.items()]


def build_trainer(config: DictConfig, callbacks: list[pl.Callback], folder: Path, **settings: Any) -> pl.Trainer:
    """Lightning's trainer with the configured arguments and `settings`."""
    plugins = [CheckpointFiles(), Environment(devices_of(config.trainer))]  # instead of Lightning's for SLURM
    return instantiate(
        to_container(config.trainer),
        callbacks=callbacks,
        plugins=plugins,
        use_distributed_sampler=False,
        enable_progress_bar=any(isinstance(callback, StepProgressBar) for callback in callbacks),
        default_root_dir=folder,
        **settings,
    )


def validation_settings(config: DictConfig, batches: int) -> dict[str, Any]:
    """The trainer's arguments for a validation every `validate_every` steps, whatever the length of an epoch.

    Args:
        batches: training batches of an epoch. A run too short for a validation has one at its end, so that every run
            has a best checkpoint.

    Raises:
        UserError: the length of the run is not set, or a limit would leave out batches that are counted here.
    """
    if config.trainer.get("limit_train_batches") is not None:
        raise UserError("trainer.limit_train_batches may leave out every validation; set data.train_limit, in rows")
    steps, epochs = config.trainer.max_steps, config.trainer.max_epochs
    accumulate = config.trainer.accumulate_grad_batches
    if steps < 0 and epochs is None:
        raise UserError("set trainer.max_steps or trainer.max_epochs, the length of the run")
    intervals = [config.validate_every * accumulate]
    if steps >= 0:
        whole_epochs, rest = divmod(steps, -(-batches // accumulate))
        intervals.append(whole_epochs * batches + rest * accumulate)
    if epochs is not None:
        intervals.append(epochs * batches)
    return {"val_check_interval": min(intervals), "check_val_every_n_epoch": None}


def score_of_run(folder: Path) -> float | None:
    """The best validation score of a finished run, if it had a validation."""
    return best_score(folder / BEST) if (folder / BEST).is_file() else None


def save_run_files(
    config: DictConfig, folder: Path, tokenizer: Tokenizer, loggers: Sequence[Logger], resume_point: ResumePoint | None
) -> None:
    """Save what the run folder contains from the start: tokenizer and configuration; remove log rows to be repeated."""
    if rank() > 0:
        return
    tokenizer.save(folder / "tokenizer")
    atomic_write(folder / CONFIG, lambda part: OmegaConf.save(config, part, resolve=True))
    if resume_point is not None and resume_point.in_place:
        truncate_csv_logs(loggers, resume_point.step, resume_point.validates_first)


def export_best(trainer: pl.Trainer, module: TrainingModule, folder: Path, tokenizer: Tokenizer) -> OFAModel:
    """Export the model with the weights of the best checkpoint, if there is one.

    Only rank 0 reads the checkpoint, from its disk; the test broadcasts the weights to the other ranks.
    """
    model, best = full_model(module.model), trainer.checkpoint_callback.best_model_path
    if rank() == 0:
        if best:
            load_weights(model, best)
        export(folder / EXPORT, model, tokenizer, to_task_settings(module.task.processor, module.generation))
    return model


def best_validation_score(trainer: pl.Trainer) -> float | None:
    """The score of the best checkpoint, if there was a validation."""
    score = trainer.checkpoint_callback.best_model_score
    return None if score is None else float(score)
