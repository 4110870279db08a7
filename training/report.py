"""What a run says to the person who started it: what it is about to do, and what came of it."""

from __future__ import annotations

import json
import logging
import shlex
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from ofa.model import OFAModel
from tasks.base import Task
from tasks.demo_chance import chance_levels
from training.build import demo_files

log = logging.getLogger(__name__)


def say_start(config: DictConfig, folder: Path) -> None:
    """The first lines: task, model, data, where the outputs go."""
    log.info(
        "task %s, model %s, data %s; outputs go to %s", config.task.name, config.model.name, config.data.name, folder
    )
    if config.data.name == "demo":
        log.info(
            "this is the demo: generated scenes, %d px pictures, a short schedule from scratch; for published data and "
            "recipes use data=tsv data.root=FOLDER tokenizer=FOLDER_OR_HUB_ID",
            config.task.image_size,
        )


def say_model(model: OFAModel) -> None:
    """How much there is to train."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    log.info("%.1f M parameters, %.1f M of them trained", total / 1e6, trained / 1e6)


def say_scores(config: DictConfig, folder: Path, task: Task) -> None:
    """The scores of every split, beside chance where the data is the demo's."""
    metrics = json.loads((folder / "metrics.json").read_text())
    chance = {}
    if config.data.name == "demo":
        files = demo_files(config)
        chance = {split: chance_levels(files["train"], files[split]) for split in metrics}
    table = Table(title=f"{config.task.name}: unseen data, best checkpoint")
    table.add_column("split")
    for name in next(iter(metrics.values())):
        table.add_column(name, justify="right")
    for name in next(iter(chance.values()), {}):
        table.add_column(f"{task.best}, {name}", justify="right")
    for split, values in metrics.items():
        cells = [*values.values(), *chance.get(split, {}).values()]
        table.add_row(split, *(f"{value:.3f}" for value in cells))
    console = Console()
    console.print(table)
    console.print(f"Metrics, predictions and pictures are in {folder}", soft_wrap=True)


def say_next(config: DictConfig, folder: Path) -> None:
    """What to type after a training run; the choices that shaped its data, task and model are repeated."""
    changed = [word for word in HydraConfig.get().overrides.task if word.split(".")[0] in ("data", "task", "model")]
    words = [f"task={config.task.name}", f"model={config.model.name}", f"data={config.data.name}", *changed]
    console = Console()
    console.print("Score the best checkpoint again, or with other options:", soft_wrap=True)
    console.print(
        f"  python evaluate.py {shlex.join(words)} checkpoint={folder} generation.beam_size=1",
        soft_wrap=True,
        highlight=False,
    )
    console.print("Watch the curves:", soft_wrap=True)
    console.print(f"  tensorboard --logdir {folder}", soft_wrap=True, highlight=False)
