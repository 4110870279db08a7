"""What a run says to the person who started it: what it is about to do, and what came of it."""

from __future__ import annotations

import json
import logging
import shlex
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.table import Column, Table

from criterions.distillation.matching import match_table
from data.demo.source import DemoSource
from data.source import DataSource
from ofa.model import OFAModel
from runtime.collectives import world_size
from runtime.run_dir import METRICS
from tasks.base import Task
from tasks.caption import Caption
from tasks.trivial_baselines import trivial_baselines
from training.distillation.cache import TeacherCache
from training.distillation.plan import DistillationPlan

log = logging.getLogger(__name__)


def say_start(config: DictConfig, folder: Path) -> None:
    """The first lines: task, data, where the outputs go."""
    log.info("task %s, data %s; outputs go to %s", config.task.name, config.data.name, folder)


def say_finished(folder: Path) -> None:
    """That nothing is left to do for a run."""
    log.info("the run in %s is finished: its scores are in %s; give another folder for another run", folder, METRICS)


def say_model(model: OFAModel, device: torch.device) -> None:
    """How much there is to train, and where."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    where = "the CPU" if device.type == "cpu" else device
    log.info("%.1f M parameters, %.1f M of them trained, on %s", total / 1e6, trained / 1e6, where)


def say_batch(config: DictConfig) -> None:
    """How many samples an update learns from."""
    accumulated = config.trainer.accumulate_grad_batches
    log.info(
        "%d samples an update: a batch of %d, %d processes, %d batches accumulated",
        config.data.batch_size * world_size() * accumulated,
        config.data.batch_size,
        world_size(),
        accumulated,
    )


@rank_zero_only
def say_distillation(plan: DistillationPlan, cache: TeacherCache | None) -> None:
    """Who teaches what, and how much of it is known already."""
    log.info("teachers: %s", ", ".join(map(str, plan.files)))
    if plan.matches:
        Console().print(match_table(plan.matches))
    if cache is not None:
        say_cache(cache, plan.cache.views)


def say_cache(cache: TeacherCache, views: int) -> None:
    """How much of a cache is there."""
    log.info(
        "teacher cache %s: %d of %d samples, %.1f MB; views of each row: %d",
        cache.folder,
        len(cache),
        cache.n_keys,
        cache.n_bytes / 1e6,
        views,
    )


@rank_zero_only
def say_scores(config: DictConfig, folder: Path, task: Task, source: DataSource) -> None:
    """The scores of every split, beside chance where the data is the demo's."""
    metrics = json.loads((folder / METRICS).read_text())
    chance = {}
    if isinstance(source, DemoSource):
        chance = {split: trivial_baselines(task, source.files["train"], source.files[split]) for split in metrics}
    console = Console()
    console.print(score_table(f"{config.task.name}: scores", metrics))
    for name, matrix in _matrices(metrics):
        console.print(_matrix_table(name, matrix))
    if chance:
        console.print(score_table(f"{task.best} by guessing", chance))
    unscored = [split for split, values in metrics.items() if task.best not in values]
    if unscored:
        console.print(f"Not scored, since their rows have no truth: {', '.join(unscored)}", soft_wrap=True)
    console.print(f"Metrics, predictions and pictures are in {folder}", soft_wrap=True)


def score_table(title: str, scores: dict[str, dict[str, Any]]) -> Table:
    """One line for each number, one column for each split."""
    table = Table("", *(Column(split, justify="right") for split in scores), title=title)
    names = dict.fromkeys(name for values in scores.values() for name, v in values.items() if isinstance(v, float))
    for name in names:
        cells = (values.get(name) for values in scores.values())
        table.add_row(name, *("" if cell is None else f"{cell:.3f}" for cell in cells))
    return table


def _matrices(metrics: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, dict[str, int]]]]:
    return [
        (f"{split}: {name}, true class by answer", value)
        for split, values in metrics.items()
        for name, value in values.items()
        if isinstance(value, dict)
    ]


def _matrix_table(title: str, matrix: dict[str, dict[str, int]]) -> Table:
    table = Table("", *(Column(name, justify="right") for name in matrix), title=title)
    for name, row in matrix.items():
        table.add_row(name, *map(str, row.values()))
    return table


@rank_zero_only
def say_next(config: DictConfig, folder: Path, task: Task) -> None:
    """What to type after a training run; the choices that shaped its data, task and model are repeated."""
    other_way = "" if task.scores_candidates else " generation.beam_size=1"
    changed = [word for word in HydraConfig.get().overrides.task if word.split(".")[0] in ("data", "task")]
    of_model = [word for word in HydraConfig.get().overrides.task if word.startswith("model.")]
    words = [f"task={config.task.name}", f"data={config.data.name}"]
    console = Console()
    console.print("Score the best checkpoint again, or with other options:", soft_wrap=True)
    console.print(
        f"  python evaluate.py {shlex.join([*words, *changed])} checkpoint={folder}{other_way}",
        soft_wrap=True,
        highlight=False,
    )
    if type(task) is Caption:
        console.print("Train on with CIDEr-D as the reward:", soft_wrap=True)
        same = [word for word in changed if not word.startswith("data.files")]  # stage 2 has a file of its own
        stage_2 = shlex.join(["task=caption_scst", f"model={config.model.name}", words[1], *of_model, *same])
        console.print(
            f"  python train.py {stage_2} init={folder} tokenizer={folder / 'tokenizer'}",
            soft_wrap=True,
            highlight=False,
        )
    if "tensorboard" in config.logger:
        console.print("Watch the curves:", soft_wrap=True)
        console.print(f"  tensorboard --logdir {folder}", soft_wrap=True, highlight=False)
