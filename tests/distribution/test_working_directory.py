"""Scripts of a checkout, started in a folder that has its own packages `data` and `tasks`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SMALL_DEMO = [
    "model=micro", "data.rows.train=16", "data.rows.evaluation=4", "task.image_size=32", "data.scenes.grid=2",
    "data.batch_size=4", "trainer.max_steps=1", "validate_every=1",
]  # fmt: skip
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


@pytest.mark.slow  # two minutes
def test_a_sweep_trains_in_two_processes_with_spawned_workers(folder):
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(SPAWN)
    processes = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.num_workers=1"]
    arguments = ["-m", *SMALL_DEMO, *processes, "seed=0", "hydra.sweep.dir=sweep"]
    run("train.py", *arguments, folder=folder, PYTHONPATH=str(folder / "site"))
    assert json.loads((folder / "sweep/0/metrics.json").read_text())
