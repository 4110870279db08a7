"""From the composed configuration to the parts of a run; what cannot work is refused here, before any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint, RichProgressBar

from data.demo.files import write_demo
from data.demo.scenes import SceneConfig
from data.module import OFADataModule
from ofa.config import OFAConfig, did_you_mean
from ofa.errors import UserError
from ofa.generation import GenerationOptions
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer
from tasks.base import Task
from training.callbacks import ReportNotes, WriteAnswers


def build_tokenizer(config: DictConfig, source: str | Path | None) -> Tokenizer:
    """The vocabulary of a folder or hub id, or the demo's; real data needs a published one."""
    tokenizer = Tokenizer.demo() if source is None else Tokenizer.from_pretrained(source)
    if tokenizer.is_demo and config.data.name != "demo":
        raise UserError(
            f"data={config.data.name} needs the published vocabulary, not the demo's: set tokenizer= to a folder or "
            f"Hugging Face hub id that holds vocab.json and merges.txt (every published OFA model folder does)"
        )
    return tokenizer


def build_task(config: DictConfig, tokenizer: Tokenizer) -> Task:
    settings = {key: value for key, value in plain(config.task).items() if key != "name"}
    return instantiate(settings, tokenizer=tokenizer)


def build_model(config: DictConfig) -> OFAModel:
    """A model of the configured size with fresh weights."""
    settings = plain(config.model)
    size, checkpointing, compiled = (settings.pop(k) for k in ("name", "gradient_checkpointing", "compile"))
    architecture = OFAConfig.from_name(size, **settings)
    image_size = config.task.get("image_size")
    if image_size is not None and image_size > architecture.max_image_size:
        raise UserError(
            f"task.image_size={image_size} is more than the {architecture.max_image_size} px a model has positions for"
        )
    model = OFAModel(architecture)
    model.set_gradient_checkpointing(checkpointing)
    if compiled:
        model.encoder.compile()
        model.decoder.compile()
    return model


def build_data(config: DictConfig, task: Task, splits: list[str]) -> OFADataModule:
    """The files of `splits` and how they are read; demo files are written first where they are not there yet."""
    settings = plain(config.data)
    files = demo_files(config) if settings["name"] == "demo" else tsv_files(config, task)
    loading = ("batch_size", "eval_batch_size", "num_workers", "on_error", "train_limit")
    columns = settings.get("columns")
    return OFADataModule(
        {split: files[split] for split in splits if split in files},
        columns or task.columns,
        task.encode,
        n_columns=None if columns else task.n_columns,
        seed=config.seed,
        **{key: settings[key] for key in loading},
    )


def chosen_splits(chosen: str | Sequence[str] | None, task: Task) -> list[str]:
    """The evaluation splits named by a user; None is all of them."""
    if chosen is None:
        return list(task.splits)
    splits = [chosen] if isinstance(chosen, str) else list(chosen)
    for split in splits:
        if split not in ("train", *task.splits):
            raise UserError(
                f"split={split} is not one of train, {', '.join(task.splits)}{did_you_mean(split, task.splits)}"
            )
    return splits


def demo_files(config: DictConfig) -> dict[str, Path]:
    data = plain(config.data)
    return write_demo(config.task.name, Path(data["root"]), SceneConfig(**data["scenes"]), data["rows"], data["seed"])


def tsv_files(config: DictConfig, task: Task) -> dict[str, Path]:
    """The configured file of each split, or `<task>_<split>.tsv` in the configured folder."""
    if config.data.files is not None:
        return {split: Path(path) for split, path in config.data.files.items()}
    if OmegaConf.is_missing(config.data, "root"):
        raise UserError(
            "data=tsv needs data.root=FOLDER, the folder of the TSV files (or data.files, the file of each split)"
        )
    root = Path(config.data.root)
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder")
    return {split: root / f"{config.task.name}_{split}.tsv" for split in ("train", *task.splits)}


def generation_options(config: DictConfig, task: Task) -> GenerationOptions:
    """The task's own way to generate, with what the configuration changes."""
    changes = {key: value for key, value in plain(config.generation).items() if value is not None}
    return replace(task.generation, **changes)


def test_callbacks(config: DictConfig, task: Task, folder: Path) -> list[pl.Callback]:
    return [RichProgressBar(), ReportNotes(), WriteAnswers(folder, task, config.pictures)]


def training_callbacks(config: DictConfig, task: Task, folder: Path) -> list[pl.Callback]:
    """Those of a test, and what a training run keeps: its best and its last checkpoint, its learning rates."""
    callbacks = [
        *test_callbacks(config, task, folder),
        LearningRateMonitor("step"),
        ModelCheckpoint(
            folder / "checkpoints", "best", monitor=f"val/{task.best}", mode="max", enable_version_counter=False
        ),
        ModelCheckpoint(folder / "checkpoints", "last", monitor=None, enable_version_counter=False),
    ]
    if config.ema.decay is not None:
        callbacks.append(EMAWeightAveraging(decay=config.ema.decay))
    return callbacks


def build_trainer(config: DictConfig, callbacks: list[pl.Callback], folder: Path, **settings: Any) -> pl.Trainer:
    """Lightning's trainer with the configured arguments and `settings`."""
    check_precision(config.trainer.precision, config.trainer.accelerator)
    return instantiate(
        plain(config.trainer),
        callbacks=callbacks,
        use_distributed_sampler=False,
        default_root_dir=folder,
        **settings,
    )


def validation_settings(config: DictConfig, batches: int) -> dict[str, Any]:
    """The trainer's arguments for a validation every `validate_every` updates, whatever the length of an epoch.

    Args:
        batches: training batches of an epoch. A run too short for a validation has one at its end, so that every run
            has a best checkpoint.
    """
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
    if min(intervals) < 1:
        raise UserError(
            "validate_every, trainer.max_steps and trainer.max_epochs must be at least 1 (max_steps=-1: no limit)"
        )
    return {"val_check_interval": min(intervals), "check_val_every_n_epoch": None}


def check_precision(precision: str, accelerator: str) -> None:
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if on_cpu and str(precision).startswith("16"):
        raise UserError(f"trainer.precision={precision} needs a GPU; on a CPU use 32-true or bf16-mixed")


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as dictionaries and lists, every reference resolved."""
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, Mapping)
    return dict(container)
