"""A loss in files outside the repository: the example of docs/extend.md."""

import csv

import pytest
import torch
from helpers.distillation import SMALL_DEMO
from helpers.examples import write_example
from helpers.runs import run

from criterions.base import AllowedIds
from criterions.label_smoothing import LabelSmoothedCrossEntropy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_example("A loss", tmp_path_factory.mktemp("loss"))


@pytest.fixture(scope="module")
def teacher(folder):
    train(folder, "criterion=focal", "criterion.gamma=1.5", "hydra.run.dir=teacher")
    return "distill.teacher=teacher"


def train(folder, *arguments, **options):
    return run("train.py", "--config-dir", "configs", *SMALL_DEMO, *arguments, folder=folder, path=folder, **options)


def logged(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return {key for row in csv.DictReader(file) for key, value in row.items() if value and key.startswith("train/")}


@pytest.mark.parametrize("distill", ["logits", "hidden", "ofa_compress"])
def test_it_trains_on_the_demo_and_is_the_loss_on_the_targets_of_a_distillation(distill, folder, teacher):
    assert {"train/loss", "train/nll"} <= logged(folder / "teacher")
    train(folder, "criterion=focal", f"distill={distill}", teacher, f"hydra.run.dir={distill}")
    assert {"train/loss", "train/ce", "train/nll", "train/kd"} <= logged(folder / distill)


def test_it_is_combined_with_debug_settings_and_allowed_ids(folder):
    train(folder, "criterion=focal", "debug=overfit", "trainer.max_steps=1", "hydra.run.dir=overfit")
    restricted = ["criterion=focal", "criterion.constraint_range=codes", "hydra.run.dir=codes"]
    process = train(folder, *restricted, check=False)
    assert "is outside criterion.constraint_range=codes" in process.stderr


def test_one_that_returns_no_loss_is_named(folder):
    (folder / "broken.py").write_text(
        "from criterions.base import Criterion\n\n\nclass Broken(Criterion):\n"
        "    def __call__(self, logits, targets, step, weights=None):\n        return logits.sum()\n"
    )
    (folder / "configs/criterion/broken.yaml").write_text("_target_: broken.Broken\n")
    process = train(folder, "criterion=broken", "hydra.run.dir=broken", check=False)
    assert process.stderr.strip().splitlines()[-1].startswith("error: Broken has to return a criterions.base.Loss")


def test_without_focus_it_is_the_cross_entropy(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    targets, logits = AllowedIds(9).targets(torch.tensor([[4, 2, 1], [5, 6, 2]])), torch.randn(5, 9)
    weights = torch.tensor([0.5, 2.0])
    ours = __import__("focal").FocalLoss(gamma=0)(logits, targets, 0, weights)
    expected = LabelSmoothedCrossEntropy(0.0)(logits, targets, 0, weights)
    torch.testing.assert_close(ours.sum, expected.sum)


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("focal.FocalLoss", ["criterion.gamma=-1.0"], "criterion.gamma=-1.0 is negative; 0 is the cross entropy"),
        (
            "focal.FocalLoss",
            ["task=caption_scst", "init=teacher"],
            "is trained on targets, and task=caption_scst gives rewards",
        ),
        ("builtins.dict", [], "builtins.dict lacks attributes of criterions.base.Criterion; make it a subclass of it"),
    ],
)
def test_what_is_incompatible_is_a_clear_error(target, arguments, message, folder, teacher):
    chosen = ["criterion=focal", f"criterion._target_={target}"]
    process = train(folder, *chosen, *arguments, "hydra.run.dir=refused", check=False)
    assert process.returncode == 1 and message in process.stderr.splitlines()[-1]
