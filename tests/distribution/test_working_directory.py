"""Scripts of a checkout, started in a folder that has its own packages `data` and `tasks`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.distillation import SMALL_DEMO

ROOT = Path(__file__).parents[2]
SPAWN = 'import multiprocessing\nmultiprocessing.set_start_method("spawn", force=True)\n'


@pytest.fixture
def folder(tmp_path):
    """A working directory whose packages have the names of ours and must never be imported."""
    for name in ("data", "tasks", "training", "runtime", "criterions", "tracking"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('{name} of the working directory')\n")
    return tmp_path


def run(script, *arguments, folder, **variables):
    """The standard output of a script; its search path contains nothing but its own folder and installed packages."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(
        [sys.executable, ROOT / script, *arguments], cwd=folder, capture_output=True, text=True, timeout=600,
        env={**inherited, "OFA_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", **variables},
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_the_configuration_is_that_of_the_checkout(folder):
    config = yaml.safe_load(run("train.py", "--cfg", "job", "task=refcoco", folder=folder))
    assert config["task"]["_target_"].startswith("tasks.refcoco.")


def test_two_processes_with_spawned_workers_train_and_a_run_of_them_is_evaluated(folder):
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(SPAWN)
    processes = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.num_workers=1"]
    run("train.py", *SMALL_DEMO, *processes, "hydra.run.dir=run", folder=folder, PYTHONPATH=str(folder / "site"))
    assert json.loads((folder / "run/metrics.json").read_text())
    run("evaluate.py", "checkpoint=run", "hydra.run.dir=evaluated", *SMALL_DEMO[1:5], folder=folder)
    assert json.loads((folder / "evaluated/metrics.json").read_text())


def test_each_run_of_a_sweep_trains(folder):
    run("train.py", *SMALL_DEMO, "-m", "seed=0,1", "hydra.sweep.dir=sweep", folder=folder)
    assert len(list(folder.glob("sweep/*/metrics.json"))) == 2
