"""Sweeps: several runs of one command, each with a folder and a logger of its own."""

import json

import pytest
import wandb_files
from distilling import SMALL_DEMO
from omegaconf import OmegaConf
from runs import run


def test_a_search_tries_settings_and_each_trial_is_a_run_of_wandb_of_its_own(tmp_path):
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
