"""The data source and the data module of a run, from its configuration."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from data.layout import load_task
from data.module import OFADataModule
from data.source import DataSource, RowFormat
from data.teacher_answers import TeacherAnswers, read_teacher_answers
from ofa.config import did_you_mean
from ofa.errors import UserError
from runtime.collectives import rank, world_size
from runtime.configuration import instantiate, to_container
from tasks.base import Task

LOADING = ("batch_size", "eval_batch_size", "num_workers", "worker_timeout", "on_error", "train_limit")


def build_source(config: DictConfig) -> DataSource:
    """The source that `data._target_` names, for the rows of the task.

    Raises:
        UserError: it cannot be built with these settings.
    """
    settings = {key: value for key, value in to_container(config.data).items() if key not in ("name", *LOADING)}
    task = load_task(config.task._target_)
    rows = RowFormat(config.task.name, task.columns, task.n_columns, task.splits, task.files, task)
    try:
        return instantiate(settings, _partial_=True)(task=rows)
    except TypeError as error:
        raise UserError(f"data={config.data.name} cannot be built with its settings: {error}") from error


def build_data(
    config: DictConfig, source: DataSource, task: Task, splits: list[str], test_splits: list[str] | None = None
) -> OFADataModule:
    """The loaders of `splits`."""
    return OFADataModule(
        source,
        [name for name in task.columns if name not in task.unused_columns],
        task.encode,
        seed=config.seed,
        train_views=config.distill.cache_views if OmegaConf.select(config, "distill.cache") is not None else None,
        splits=splits,
        test_splits=test_splits,
        teacher_answers=teacher_answers(config, task),
        rank=rank(),
        world=world_size(),
        **{key: config.data[key] for key in LOADING},
    )


def build_training_data(config: DictConfig, source: DataSource, task: Task) -> OFADataModule:
    """The prepared data of all splits that training, validation and the final test need."""
    splits = dict.fromkeys(["train", "val", *evaluation_splits(source, task)])
    data = build_data(config, source, task, list(splits))
    data.prepare_data()
    return data


def teacher_answers(config: DictConfig, task: Task) -> TeacherAnswers | None:
    """Teacher predictions that replace the training targets (`distill.predictions`), if any."""
    file = OmegaConf.select(config, "distill.predictions")
    if file is None:
        return None
    parts = (task.answer_field, task.answer_column, task.format_answer)
    return read_teacher_answers(Path(file), *parts, skip_broken=config.data.on_error == "skip")


def splits_to_test(config: DictConfig, source: DataSource, task: Task) -> list[str]:
    """The splits that `split` names; by default all evaluation splits of the task that the source has."""
    if config.split is None:
        return evaluation_splits(source, task)
    splits = [config.split] if isinstance(config.split, str) else list(config.split)
    known = ("train", *task.splits)
    for split in splits:
        if split not in known:
            raise UserError(f"split={split} is not one of {', '.join(known)}{did_you_mean(split, known)}")
    return splits


def evaluation_splits(source: DataSource, task: Task) -> list[str]:
    """The evaluation splits of the task that the source has."""
    return [split for split in task.splits if split in source.splits]
