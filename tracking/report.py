"""Console report of a run: its settings at the start, scores and follow-up commands at the end."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.table import Column, Table

from data.tsv import TSVFile
from ofa.model import OFAModel
from runtime.collectives import world_size
from runtime.run_dir import METRICS
from tasks.base import Task

log = logging.getLogger(__name__)


def log_start(config: DictConfig, folder: Path) -> None:
    """The first lines: task, data, output folder."""
    log.info("task %s, data %s; outputs go to %s", config.task.name, config.data.name, folder)


def log_finished(folder: Path) -> None:
    """For a run that is complete already."""
    log.info("the run in %s is finished: its scores are in %s; give another folder for another run", folder, METRICS)


def log_model(config: DictConfig, model: OFAModel, device: torch.device) -> None:
    """Number of parameters, device, and samples per optimizer step."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    where = "the CPU" if device.type == "cpu" else device
    log.info("%.1f M parameters, %.1f M of them trained, on %s", total / 1e6, trained / 1e6, where)
    parts = config.data.batch_size, world_size(), config.trainer.accumulate_grad_batches
    text = "effective batch size %d = batch %d x %d processes x %d accumulated batches"
    log.info(text.replace("processes", "process") if parts[1] == 1 else text, parts[0] * parts[1] * parts[2], *parts)


@rank_zero_only
def print_scores(config: DictConfig, folder: Path, task: Task, demo: Mapping[str, Path]) -> None:
    """Tables of the scores of every split and, for the demo, of trivial baselines.

    Args:
        folder: of the run, with its metrics.json.
        demo: the demo's file of every split, the training file included; empty for other data.
    """
    metrics = json.loads((folder / METRICS).read_text())
    console = Console()
    console.print(score_table(f"{config.task.name}: scores", metrics))
    for split, values in metrics.items():
        for name, value in values.items():
            if isinstance(value, dict):
                title = f"{split}: {name}, true class by predicted class"
                matrix = Table("", *(Column(predicted, justify="right") for predicted in value), title=title)
                for true, row in value.items():
                    matrix.add_row(true, *map(str, row.values()))
                console.print(matrix)
    if demo and task.trivial_baselines is not None:
        rows = {split: TSVFile(file, task.columns, task.n_columns) for split, file in demo.items()}
        baselines = {split: task.trivial_baselines(rows["train"], rows[split]) for split in metrics}
        console.print(score_table(f"trivial baselines ({task.monitor})", baselines))
    unscored = [split for split, values in metrics.items() if task.monitor not in values]
    if unscored:
        console.print(f"Not scored, since their rows have no truth: {', '.join(unscored)}", soft_wrap=True)
    console.print(f"Metrics, predictions and images are in {folder}", soft_wrap=True)


def score_table(title: str, scores: dict[str, dict[str, Any]]) -> Table:
    """One row for each number, one column for each split."""
    table = Table("", *(Column(split, justify="right") for split in scores), title=title)
    names = dict.fromkeys(name for values in scores.values() for name, v in values.items() if isinstance(v, float))
    for name in names:
        cells = (values.get(name) for values in scores.values())
        table.add_row(name, *("" if cell is None else f"{cell:.3f}" for cell in cells))
    return table


@rank_zero_only
def print_next_steps(config: DictConfig, folder: Path, task: Task) -> None:
    """Commands that follow a training run, with the overrides that shaped its data, task and model."""
    given = HydraConfig.get().overrides.task
    changed = [override for override in given if override.split(".")[0] in ("data", "task")]
    chosen = [f"task={config.task.name}", f"data={config.data.name}"]
    other_options = "" if task.processor.scores_candidates else " generation.beam_size=1"
    _print_command(
        "Score the best checkpoint again, or with other options:",
        f"python evaluate.py {shlex.join([*chosen, *changed])} checkpoint={folder}{other_options}",
    )
    if task.next_task is not None:
        name, purpose = task.next_task
        model = [f"model={config.model.name}", *(override for override in given if override.startswith("model."))]
        same = [override for override in changed if not override.startswith("data.files")]  # which differ by task
        follow_up = shlex.join([f"task={name}", chosen[1], *model, *same])
        _print_command(purpose, f"python train.py {follow_up} init={folder} tokenizer={folder / 'tokenizer'}")
    if "tensorboard" in config.logger:
        _print_command("Watch the curves:", f"tensorboard --logdir {folder}")


def _print_command(title: str, command: str) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(title)
    console.print(f"  {command}")
