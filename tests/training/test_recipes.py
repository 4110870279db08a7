"""Recipes: by data source and task, with the values of the model size."""

import logging
import re

import pytest
from helpers.runs import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from runtime.overrides import CONFIGS
from training.build import log_recipe

TSV = ["data=tsv", "data.root=/tmp"]


def config_of(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", list(overrides), return_hydra_config=True)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["task=refcoco", "model=base"], (5e-5, 0.1, 10, 8)),
        (["task=refcoco", "model=large"], (3e-5, 0.2, 10, 8)),
        (["task=caption", "model=large"], (1e-5, 0.1, 2, 4)),
        (["task=caption", "model=tiny"], (2e-5, 0.0, 5, 1)),
        (["experiment=refcoco_tiny_from_large", "distill.teacher=RUN"], (1e-4, 0.0, 5, 1)),
        (["experiment=caption_tiny_from_large", "distill.teacher=RUN"], (2e-5, 0.0, 5, 1)),
        (["experiment=snli_ve_tiny_from_large", "distill.teacher=RUN"], (6e-5, 0.0, 5, 1)),
        (["task=caption", "recipe=scratch"], (3.5e-4, 0.0, 30, 1)),
        (["task=caption", "~recipe"], (5e-5, 0.0, 10, 1)),
    ],
)
def test_learning_rate_drop_path_and_length_are_those_of_the_size(overrides, expected):
    config = config_of(*TSV, *overrides)
    trainer = config.trainer
    values = (config.optim.lr, config.model.decoder_drop_path_rate, trainer.max_epochs, trainer.accumulate_grad_batches)
    assert values == expected


@pytest.mark.parametrize(
    ("overrides", "level", "message"),
    [
        ([], logging.INFO, "recipe demo/refcoco, for model=tiny, weights: scratch"),
        (["init=x"], logging.INFO, "recipe demo/refcoco, for model=tiny, weights: scratch"),
        (
            [*TSV, "task=vqa", "model=large", "init=x"],
            logging.INFO,
            "recipe tsv/vqa, for model=large, weights: published",
        ),
        (
            [*TSV, "task=vqa"],
            logging.WARNING,
            "recipe tsv/vqa, for model=large, weights: published; this run has model=tiny and random weights (set "
            "init=, or recipe=scratch)",
        ),
        ([*TSV, "recipe=scratch"], logging.INFO, "recipe scratch, for model=tiny, weights: scratch"),
        (
            [*TSV, "~recipe"],
            logging.INFO,
            "no recipe for data=tsv task=refcoco: defaults of the config groups; recipe=scratch is for training from "
            "scratch",
        ),
    ],
)
def test_one_line_describes_the_recipe(overrides, level, message, caplog):
    config = config_of(*overrides)
    HydraConfig.instance().set_config(config)
    with caplog.at_level(logging.INFO):
        log_recipe(config)
    assert [(record.levelno, record.message) for record in caplog.records] == [(level, message)]


def test_a_data_source_without_recipes_trains_with_the_defaults(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.yaml").write_text("name: mine\n")
    config = config_of(f"hydra.searchpath=[file://{tmp_path}]", "data=mine")
    assert (config.optim.lr, config.trainer.max_epochs, config.criterion.label_smoothing) == (5e-5, 10, 0.1)


def test_no_documented_command_shows_a_bare_token_id():
    text = "".join(file.read_text() for file in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    choices = set(re.findall(r"\b(?:experiment|distill|recipe|criterion|debug)=[a-z_]+\b(?!\.)", text)) - {
        "criterion=focal"
    }
    assert len(choices) > 5
    for choice in choices:
        config = OmegaConf.to_yaml(config_of(*TSV, choice))
        assert not re.search(r"58457|59457|50265", config), choice
