"""Which files a run reads, and the data module that serves them."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from data.demo.files import write_demo
from data.demo.scenes import SceneConfig
from data.module import OFADataModule
from data.teacher_answers import TeacherAnswers, read_teacher_answers
from ofa.config import did_you_mean
from ofa.errors import UserError
from runtime.collectives import rank, world_size
from runtime.configuration import to_container
from tasks.base import Task


def build_data(
    config: DictConfig, task: Task, splits: list[str], test_splits: list[str] | None = None
) -> OFADataModule:
    """The files of `splits` and how they are read; demo files are written first where they are not there yet."""
    settings = to_container(config.data)
    files = demo_files(config) if settings["name"] == "demo" else tsv_files(config, task)
    for split in splits:
        if split not in files:
            raise UserError(f"data.files names no file for split {split}; it has {', '.join(files)}")
    read = {name: place for name, place in task.columns.items() if name not in task.unread_columns}
    columns = settings.get("columns")
    if columns and columns.keys() not in (read.keys(), task.columns.keys()):
        raise UserError(f"data.columns names {', '.join(columns)}; the task reads {', '.join(read)}")
    loading = ("batch_size", "eval_batch_size", "num_workers", "worker_timeout", "on_error", "train_limit")
    return OFADataModule(
        {split: files[split] for split in splits},
        columns or read,
        task.encode,
        n_columns=None if columns else task.n_columns,
        seed=config.seed,
        train_views=config.distill.cache_views if OmegaConf.select(config, "distill.cache") is not None else None,
        test_splits=test_splits,
        teacher_answers=teacher_answers(config, task),
        rank=rank(),
        world=world_size(),
        **{key: settings[key] for key in loading},
    )


def teacher_answers(config: DictConfig, task: Task) -> TeacherAnswers | None:
    """What a student is to learn in the place of the training file's answers, if anything."""
    file = OmegaConf.select(config, "distill.predictions")
    if file is None:
        return None
    parts = (task.answer_field, task.answer_column, task.format_answer)
    return read_teacher_answers(Path(file), *parts, skip_broken=config.data.on_error == "skip")


def splits_to_test(config: DictConfig, task: Task) -> list[str]:
    """The splits named by `split`; without it, all of the task that have a file."""
    if config.split is None:
        return splits_with_files(config, task)
    splits = [config.split] if isinstance(config.split, str) else list(config.split)
    known = ("train", *task.splits)
    for split in splits:
        if split not in known:
            raise UserError(f"split={split} is not one of {', '.join(known)}{did_you_mean(split, known)}")
    return splits


def splits_with_files(config: DictConfig, task: Task) -> list[str]:
    """The task's evaluation splits, less those that a choice of `data.files` leaves out."""
    given = None if config.data.name == "demo" else config.data.files
    return [split for split in task.splits if given is None or split in given]


def demo_files(config: DictConfig) -> dict[str, Path]:
    data = to_container(config.data)
    root, scenes = Path(data["root"]).expanduser(), SceneConfig(**data["scenes"])
    return write_demo(config.task.name, root, scenes, data["rows"], data["seed"])


def baseline_files(config: DictConfig) -> dict[str, Path]:
    """The files that trivial baselines are scored on: those of the demo, none of other data."""
    return demo_files(config) if config.data.name == "demo" else {}


def answer_list(config: DictConfig) -> Path:
    """The file `answers.json` that lies with the data."""
    if config.data.name == "demo":
        return demo_files(config)["train"].with_name("answers.json")
    if OmegaConf.is_missing(config.data, "root"):
        raise UserError("task.answer_list=FILE has to be given, the JSON list of all answers, where data.root is not")
    return Path(config.data.root) / "answers.json"


def tsv_files(config: DictConfig, task: Task) -> dict[str, Path]:
    """The configured file of each split, or that of the published name in the configured folder."""
    splits = ("train", *task.splits)
    if config.data.files is not None:
        for split in config.data.files:
            if split not in splits:
                raise UserError(f"data.files: {split} is not one of {', '.join(splits)}{did_you_mean(split, splits)}")
        return {split: Path(path) for split, path in config.data.files.items()}
    if OmegaConf.is_missing(config.data, "root"):
        raise UserError(
            "data=tsv needs data.root=FOLDER, the folder of the TSV files (or data.files, the file of each split)"
        )
    root = Path(config.data.root)
    return {split: root / task.files.get(split, f"{config.task.name}_{split}.tsv") for split in splits}
