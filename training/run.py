"""Stages of a training run that depend on rank, resume point or distillation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger

from data.module import OFADataModule
from data.source import DataSource
from ofa.atomic_write import atomic_write
from ofa.checkpoint import BEST, EXPORT, check_vocabulary, export, load_weights
from ofa.model import OFAModel
from ofa.processors.settings import to_task_settings
from ofa.tokenizer import Tokenizer
from runtime.checkpoints import best_score
from runtime.collectives import rank
from runtime.resume import CONFIG, ResumePoint, truncate_csv_logs
from runtime.sharding import full_model
from tasks.base import Task
from tracking import report
from training.build import build_model, build_tokenizer
from training.data_files import build_data, evaluation_splits
from training.distillation.cache import TeacherCache
from training.distillation.plan import DistillationPlan, log_distillation
from training.module import TrainingModule


def score_of_run(folder: Path) -> float | None:
    """The best validation score of a finished run, if it had a validation."""
    return best_score(folder / BEST) if (folder / BEST).is_file() else None


def build_training_tokenizer(config: DictConfig, source: DataSource) -> Tokenizer:
    """The configured tokenizer, which has to be that of the initial weights."""
    tokenizer = build_tokenizer(config, source, config.tokenizer)
    if config.init is not None:
        check_vocabulary(config.init, tokenizer)
    return tokenizer


def build_training_data(config: DictConfig, source: DataSource, task: Task) -> OFADataModule:
    """The prepared data of all splits that training, validation and the final test need."""
    splits = dict.fromkeys(["train", "val", *evaluation_splits(source, task)])
    data = build_data(config, source, task, list(splits))
    data.prepare_data()
    return data


def build_initial_model(
    config: DictConfig, resume_point: ResumePoint | None, distillation: DistillationPlan | None
) -> OFAModel:
    """The model with the weights that training starts from; a resumed run reads them from its checkpoint later."""
    model = build_model(config)
    if resume_point is None and config.init is not None:
        load_weights(model, config.init)
    if resume_point is None and distillation is not None:
        distillation.initialize(model)
    return model


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


def log_parts(
    config: DictConfig,
    model: OFAModel,
    trainer: pl.Trainer,
    distillation: DistillationPlan | None,
    cache: TeacherCache | None,
) -> None:
    """Log what is about to be trained: teachers, size of the model, device, effective batch size."""
    if distillation is not None:
        log_distillation(distillation, cache)
    report.log_model(model, trainer.strategy.root_device)
    report.log_batch_size(config)


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
