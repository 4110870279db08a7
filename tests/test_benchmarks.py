import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers.runs import run
from torch import nn

from benchmarks.__main__ import CASES
from benchmarks.checkpoints import CheckpointLoading
from benchmarks.compute import Candidates, CaptionScoring, Decoding, Encoding, MaskedLoss, TrainingStep, TreeLoss
from benchmarks.distillation import CachedStep, DistillationStep, PlainStep
from benchmarks.loading import Indexing, Loading, Preparing
from benchmarks.measure import Machine, RateMeter, Rates, Workload, count_operations, measure
from benchmarks.report import COMPARED, PUBLISHED, compare, figures
from ofa.vocabulary import BINS

MACHINE = Machine("cpu", "float32")
MICRO = dict(model="micro", image_size=32, batch_size=2, source_tokens=5)
STEP = dict(**MICRO, target_tokens=4)
LOSS = dict(model="micro", batch_size=2, answers=30)
SMALL_CASES = [
    TrainingStep(**STEP),
    DistillationStep(**STEP, teacher="micro"),
    DistillationStep(**STEP, teacher="micro", teacher_precision="bf16-true"),
    CachedStep(**STEP, teacher="micro"),
    PlainStep(**STEP),
    Encoding(**MICRO),
    Decoding(**MICRO, tokens=2, beams=2),
    Decoding(**MICRO, kind="bins", tokens=2, beams=2, constraint_range=BINS),
    TreeLoss(**LOSS),
    MaskedLoss(**LOSS),
    Candidates(**MICRO, answers=12, prompt_tokens=2),
    CaptionScoring(captions=3, references=2, vocabulary=20),
    CheckpointLoading("safetensors", model="micro"),
    Loading(workers=0, rows=3, image_size=32, batch_size=2),
    Indexing(rows=3),
    Preparing(workers=1, max_side=512, rows=2),
]


@pytest.fixture(autouse=True)
def small_meter(monkeypatch):
    small = partial(RateMeter, width=16, batch=1, side=4, channels=4)
    monkeypatch.setattr("benchmarks.measure.RateMeter", small)
    return small


class Linear:
    """A case with operations that are easy to count."""

    name = "linear"

    def prepare(self, machine, folder):
        layer, x = nn.Linear(8, 16), torch.randn(2, 3, 8)
        return Workload(lambda: layer(x).sum().backward(), items=2)


@pytest.mark.parametrize("case", SMALL_CASES, ids=lambda case: case.name)
def test_every_benchmark_runs_and_its_figures_are_json(case, tmp_path, monkeypatch):
    # Processes start as fast as those of `run`, because the time of their start is not tested.
    monkeypatch.setattr("benchmarks.checkpoints.subprocess.run", lambda args, **_: run(*args[1:], folder=tmp_path))
    measurement = measure(case, MACHINE, 2, tmp_path)
    assert len(measurement.seconds) == 2
    assert (measurement.operations > 0) == (measurement.unit == "samples")
    shown = json.loads(json.dumps(figures(measurement, MACHINE)))
    assert shown["items_per_second"] == measurement.items / shown["median_seconds"]


def test_every_kind_of_benchmark_is_tested_small():
    assert {type(case) for cases in CASES.values() for case in cases} == {type(case) for case in SMALL_CASES}


def test_the_loss_over_a_tree_and_over_the_masked_vocabulary_are_the_same_number(tmp_path):
    cases = (case(model="micro", batch_size=8, answers=60) for case in (TreeLoss, MaskedLoss))
    torch.testing.assert_close(*(case.prepare(MACHINE, tmp_path).run() for case in cases))


def test_operations_are_two_per_weight_and_row_or_pixel_forward_and_backward(tmp_path):
    measurement = measure(Linear(), MACHINE, 1, tmp_path)
    assert measurement.operations == 2 * (2 * 2 * 3 * 8 * 16)  # the input needs no gradient
    layer = nn.Conv2d(4, 6, 3, padding=1)
    assert count_operations(lambda: layer(torch.randn(2, 4, 5, 5))) == 2 * 2 * 5 * 5 * 6 * 4 * 3 * 3


def test_every_published_figure_and_every_comparison_has_its_case():
    compared = {name for name, (other, _) in COMPARED.items() for name in (name, other)}
    assert set(PUBLISHED) | compared <= {case.name for cases in CASES.values() for case in cases}


def test_the_ratio_scales_the_published_time_by_the_matrix_rate(tmp_path):
    measurement = measure(Linear(), MACHINE, 1, tmp_path)
    slow = replace(measurement, case="encoder, 384 px", seconds=[4.0, 9.0, 2.0], rates=Rates(75.0, 60.0, 120.0))
    shown = figures(slow, MACHINE)
    assert (shown["median_seconds"], shown["published_seconds_scaled"], shown["ratio"]) == (4.0, 5.0, 0.8)
    assert shown["rates"]["convolution"] == pytest.approx(80.0)
    assert figures(slow, Machine("cpu", "bf16"))["ratio"] is None


def test_a_case_is_compared_with_the_other_of_the_same_run_where_there_is_one():
    seconds = {"encoder, 480 px": 4.0, "scoring, 480 px, 3129 answers": 2.0, "other": 1.0}
    rows = [{"case": name, "median_seconds": s, "ratio": None, "target": None} for name, s in seconds.items()]
    compare(rows)
    assert [(row["ratio"], row["target"]) for row in rows] == [(None, None), (0.5, 3.0), (None, None)]
    compare(rows[1:2])


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_rates_are_measured_in_either_precision(precision, small_meter):
    assert small_meter(Machine("cpu", precision)).measure().convolution > 0
