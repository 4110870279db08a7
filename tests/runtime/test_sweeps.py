"""Sweeps: several runs of one command, each with its own folder and logger."""

import json
import os
import subprocess

import pytest
from helpers import wandb_files
from helpers.distillation import SMALL_DEMO
from helpers.runs import ROOT, run
from omegaconf import OmegaConf


def test_each_trial_of_a_search_is_a_wandb_run(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    search = ["hydra/sweeper=search", "hydra.sweeper.n_trials=2", "optim.lr=tag(log,interval(1e-5,1e-3))"]
    words = [*SMALL_DEMO, "logger=[csv,wandb]", "logger.wandb.mode=offline", "pictures=2", "hydra.sweep.dir=sweep"]
    process = run("train.py", "-m", *search, *words, folder=tmp_path)
    assert "Directions: ['maximize']" in process.stdout
    best = OmegaConf.load(tmp_path / "sweep/optimization_results.yaml")
    rates, scores, names = [], [], set()
    for trial in (tmp_path / "sweep/0", tmp_path / "sweep/1"):
        row = wandb_files.history(trial)[-1]
        assert row["testA/acc@0.5"] == json.loads((trial / "metrics.json").read_text())["testA"]["acc@0.5"]
        assert row["answers/testA/count"] == 2
        rates.append(wandb_files.configuration(trial)["optim"]["lr"])
        scores.append(row["best/val/acc@0.5"])
        names.add(wandb_files.run_record(trial).run_id)
    assert rates[0] != rates[1] and len(names) == 2
    assert best.best_value == pytest.approx(max(scores)) and best.best_params["optim.lr"] in rates


def test_a_line_of_an_array_is_passed_to_the_run_unchanged(tmp_path):
    (tmp_path / "lines.txt").write_text("seed=1\nlogger=[csv,wandb]  optim.lr=1e-4\n")
    (tmp_path / "logger=c").touch()  # which the override would match as a pattern
    (tmp_path / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    command = ["bash", ROOT / "run_scripts/slurm/sweep_array.sbatch", "lines.txt", "task=caption"]
    process = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-3:] == ["task=caption", "logger=[csv,wandb]", "optim.lr=1e-4"]


def test_a_batch_script_without_its_file_or_interpreter_ends_with_an_error(tmp_path):
    def start(name, *words, **variables):
        both = {"PATH": os.environ["PATH"], "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_ID": "7"}
        command = ["bash", ROOT / "run_scripts/slurm" / name, *words]
        process = subprocess.run(command, cwd=tmp_path, env={**both, **variables}, capture_output=True, text=True)
        assert process.returncode == 1
        return process.stderr

    assert start("sweep_array.sbatch", "none.txt", PYTHON="sh") == (
        "error: there is no file 'none.txt' of lines; give one after the script's name\n"
    )
    for script in (ROOT / "run_scripts/slurm").glob("*.sbatch"):
        assert start(script.name, PYTHON="nosuch -u").startswith("error: there is no command nosuch on ")
