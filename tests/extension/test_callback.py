"""A callback and a logger in files outside the repository: the example of docs/extend.md."""

import json
import re

import pytest
import torch
from helpers.examples import write_example
from helpers.runs import run

SMALL = ["model=micro", "data.rows.train=16", "data.rows.evaluation=2", "task.image_size=32", "data.scenes.grid=2",
         "data.batch_size=4", "data.num_workers=0", "pictures=0", "save_every=1", "resume=auto"]  # fmt: skip
STOP = """
import os
import pytorch_lightning as pl

class Stop(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 2 and "STOP" in os.environ:
            os._exit(1)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of the example, and a callback that ends the process in the third step."""
    folder = write_example("A callback or logger", tmp_path_factory.mktemp("callback"))
    (folder / "stop.py").write_text(STOP)
    (folder / "configs/callbacks/stop.yaml").write_text("stop: {_target_: stop.Stop}")
    return folder


def train(folder, name, *overrides, **options):
    arguments = ["--config-dir", "configs", *SMALL, f"hydra.run.dir={name}", *overrides]
    return run("train.py", *arguments, folder=folder, path=folder, **options)


def last(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


def test_a_callback_and_a_logger_take_part_and_a_resumed_run_continues_their_values(folder, monkeypatch):
    chosen = ["callbacks=[token_count,stop,device_stats]", "logger=[csv,json_lines]", "trainer.max_steps=4",
              "+callbacks.timer._target_=pytorch_lightning.callbacks.Timer", "validate_every=2"]  # fmt: skip
    train(folder, "whole", *chosen)
    monkeypatch.setenv("STOP", "1")
    assert train(folder, "stopped", *chosen, check=False).returncode == 1
    assert last(folder / "stopped")["global_step"] == 2
    monkeypatch.delenv("STOP")
    train(folder, "stopped", *chosen)

    states = [last(folder / name)["callbacks"]["TokenCount"] for name in ("whole", "stopped")]
    assert states[0] == states[1] and states[0]["tokens"] > 4 * 4
    logged = [json.loads(line) for line in (folder / "whole/metrics.jsonl").read_text().splitlines()]
    tokens = [values["train/tokens"] for values in logged if "train/tokens" in values]
    assert tokens == sorted(tokens) and any("testA/acc@0.5" in values for values in logged)


def test_early_stopping_ends_training_for_good(folder):
    chosen = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "trainer.max_steps=8",
              "callbacks.early_stopping.min_delta=1.5", "validate_every=2"]  # fmt: skip
    process = train(folder, "early", *chosen)
    assert "stopped early after step 4: 1 validations without a better acc@0.5" in process.stdout
    first = last(folder / "early")
    assert first["global_step"] == 4
    (folder / "early/metrics.json").unlink()  # as if it was killed in its test
    train(folder, "early", *chosen)
    second = last(folder / "early")
    assert second["global_step"] == 4 and (folder / "early/metrics.json").is_file()
    assert all(torch.equal(first["state_dict"][name], tensor) for name, tensor in second["state_dict"].items())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "+callbacks.mine._target_=nowhere.Mine",
            "nowhere.Mine cannot be imported .*No module named 'nowhere'",
        ),
        ("+callbacks.mine._target_=torch.nn.ReLU", "callbacks.mine: torch.nn.ReLU is not a Lightning callback"),
        ("+callbacks.mine.patience=1", "callbacks.mine has no _target_; set it to the class of a Lightning callback"),
        ("callbacks=early_stoping", "did you mean 'early_stopping'"),
    ],
)
def test_a_wrong_entry_is_an_error_before_work_starts(folder, override, message):
    process = train(folder, "wrong", override, check=False)
    error = process.stderr.splitlines()[-1]
    assert error.startswith("error: ") and re.search(message, error)
    assert "task refcoco" not in process.stdout
