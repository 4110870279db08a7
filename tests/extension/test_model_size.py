"""A model size in a file outside the repository: the example of docs/extend.md."""

import pytest
from helpers.distillation import SMALL_DEMO
from helpers.examples import write_example
from helpers.runs import run
from hydra import compose, initialize_config_dir

from ofa import load
from ofa.config import SIZES, OFAConfig
from runtime.overrides import CONFIGS
from training.build import model_config


def test_it_trains_and_its_exported_model_loads(tmp_path):
    write_example("A model size", tmp_path)
    run("train.py", "--config-dir", "configs", *SMALL_DEMO, "model=mini", "hydra.run.dir=run", folder=tmp_path)
    for place in ("run/checkpoints/best.ckpt", "run/model"):
        config = load(tmp_path / place)[0].config
        assert (config.d_model, config.encoder_layers, config.decoder_layers) == (96, 3, 2)
        assert config.resnet_type == "resnet26"


@pytest.mark.parametrize("name", SIZES)
def test_the_files_of_the_repository_contain_the_sizes_of_the_library(name):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [f"model={name}", "~recipe"])
    assert model_config(config) == OFAConfig.from_name(name)
