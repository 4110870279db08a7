"""Run folders of the version before the packages were split; previous_version/ contains files written by it.

The checkpoint there has the structure and the small tensors of a real one; its large tensors are zeros.
"""

import gzip
import io
import shutil
from pathlib import Path

import pytest
import torch
from helpers.runs import run
from omegaconf import OmegaConf, open_dict

from ofa.errors import UserError
from runtime.legacy_config import RENAMED
from runtime.overrides import check_overrides
from runtime.resume import find_resume_point

RUNS = Path(__file__).with_name("previous_version")
REPLACED = {"distill=refcoco": "distill=ofa_compress"}


def overrides_of(name):
    """The overrides of a run, under the names of today."""
    for override in OmegaConf.load(RUNS / name / "overrides.yaml"):
        key, _, value = override.partition("=")
        yield REPLACED.get(override, f"{RENAMED.get(key, key)}={value}")


def compose(overrides):
    config = check_overrides("train", overrides)
    with open_dict(config):
        del config["hydra"], config["logger"]  # which refers to it
    return config


def fill(value):
    """Dense tensors in the place of those that are one repeated zero, which no optimizer can change."""
    if isinstance(value, torch.Tensor):
        return value.contiguous()
    if isinstance(value, dict):
        return type(value)((key, fill(item)) for key, item in value.items())
    return type(value)(map(fill, value)) if isinstance(value, list | tuple) else value


@pytest.fixture
def old_run(tmp_path):
    """A function that writes the folder of an old run, interrupted after step 3, and returns its overrides of today."""

    def write(name):
        shutil.copytree(RUNS / name, tmp_path / "run")
        (tmp_path / "run/checkpoints").mkdir()
        content = io.BytesIO(gzip.decompress((RUNS / "refcoco/last.ckpt.gz").read_bytes()))
        checkpoint = fill(torch.load(content, weights_only=True))
        for kind in ("last", "best"):
            torch.save(checkpoint, tmp_path / f"run/checkpoints/{kind}.ckpt")
        return [*overrides_of(name), "resume=auto"]

    return write


def test_an_old_run_is_evaluated_and_resumed(old_run, tmp_path):
    overrides = old_run("refcoco")
    data = [word for word in overrides if word.startswith("data.rows")]
    words = ["task=refcoco", "task.image_size=32", "checkpoint=run", "split=testA", *data]
    run("evaluate.py", *words, "hydra.run.dir=scores", folder=tmp_path)
    assert (tmp_path / "scores/metrics.json").is_file()

    process = run("train.py", *overrides, "hydra.run.dir=run", folder=tmp_path)
    assert "resuming after step 3 of" in process.stdout
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 4
    assert (tmp_path / "run/metrics.json").is_file()


@pytest.mark.parametrize("name", sorted(folder.name for folder in RUNS.iterdir()))
def test_the_settings_of_an_old_run_are_those_of_today(old_run, tmp_path, name):
    overrides = old_run(name)
    assert find_resume_point(compose(overrides), tmp_path / "run").step == 3


def test_a_changed_setting_of_an_old_run_is_refused(old_run, tmp_path):
    overrides = old_run("refcoco")
    with pytest.raises(UserError, match="optim.lr=1, but .* with optim.lr=0.00035"):
        find_resume_point(compose([*overrides, "optim.lr=1"]), tmp_path / "run")
    with pytest.raises(UserError, match="distill.teacher=x, but .* with distill.teacher=null"):
        find_resume_point(compose([*overrides, "distill=logits", "distill.teacher=x"]), tmp_path / "run")
