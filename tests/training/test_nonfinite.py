"""A loss or gradient that is not finite stops a run and names the samples, or these are skipped and counted."""

import math
import os
from types import SimpleNamespace
from unittest import mock

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import nn

from criterions.label_smoothing import LabelSmoothedCrossEntropy, Loss
from data.batch import Sample
from data.module import OFADataModule
from data.tsv import TSVSource
from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.generation import GenerationOptions
from ofa.model import OFAModel
from runtime.sharding import WORKS_ON_CPUS, FullySharded, full_tensor
from training.freezing import Freezing
from training.module import TrainingModule
from training.nonfinite import MAX_IN_A_ROW
from training.optim import Optim

MICRO = OFAConfig.from_name("micro", dropout=0.0)


class Disturbed(TrainingModule):
    """Changes the loss of the batches whose first sample is among `bad`."""

    bad, disturb = (), None

    def loss(self, batch):
        loss = super().loss(batch)
        if batch.ids[0] not in self.bad:
            return loss
        return Loss(self.disturb(loss.sum, self.model.decoder.embed_tokens.weight), loss.sample_size, loss.terms)


def nan(loss, weight):
    return loss * float("nan")


def infinite(loss, weight):
    return loss + float("inf")


def gradient(loss, weight):
    """A finite loss with a NaN gradient."""
    return loss + (weight * 0).sqrt().sum()


def nothing(loss, weight):
    return loss * 0


class Weights(pl.Callback):
    """The weights of the model after every batch."""

    def __init__(self):
        self.after = []

    def on_train_batch_end(self, trainer, module, *args):
        self.after.append(torch.cat([full_tensor(p.detach()).flatten() for p in module.model.parameters()]).clone())


def encode(row, rng, train):
    return Sample(row.values["id"], [0, 11, 2], [8, 9, 2], torch.zeros(3, 32, 32), truth=None)


def fit(tmp_path, disturb, bad, on_nonfinite, rows=4, callbacks=(), **settings):
    """One epoch with one sample per batch, in the order of the file; the weights after each batch."""
    (tmp_path / "rows.tsv").write_text("".join(f"r{i}\n" for i in range(rows)))
    pl.seed_everything(1, verbose=False)
    data = OFADataModule(
        TSVSource({"train": tmp_path / "rows.tsv"}, {"id": 0}), ["id"], encode, batch_size=1, eval_batch_size=1
    )
    task = SimpleNamespace(processor=SimpleNamespace(tree=None))
    module = Disturbed(
        OFAModel(MICRO), task, GenerationOptions(), LabelSmoothedCrossEntropy(0.1),
        Optim(lr=1e-3), Freezing(), on_nonfinite=on_nonfinite,
    )  # fmt: skip
    module.bad, module.disturb = bad, disturb
    weights = Weights()
    trainer = pl.Trainer(
        callbacks=[weights, *callbacks], max_epochs=1, logger=False, enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=False, use_distributed_sampler=False,
        default_root_dir=tmp_path, gradient_clip_val=1.0,
        **{"accelerator": "cpu", **settings},
    )  # fmt: skip
    trainer.fit(module, data.train_dataloader())
    return weights.after


@pytest.fixture(autouse=True)
def file_order(monkeypatch):
    monkeypatch.setattr("data.module.ShuffleSampler.__iter__", lambda self: iter(range(self.n)))


@pytest.mark.parametrize(
    ("disturb", "accumulate", "message"),
    [
        (nan, 1, "the loss of step 3 is nan, with the samples r2; .*on_nonfinite=skip"),
        (infinite, 1, "the loss of step 3 is inf, with the samples r2; "),
        (gradient, 1, "the gradient of step 3 is not finite, with the samples r2; "),
        (gradient, 2, "the gradient of step 2 is not finite, with the samples r2, r3;"),
    ],
)
def test_by_default_a_run_stops_and_names_step_and_samples(tmp_path, disturb, accumulate, message):
    with pytest.raises(UserError, match=message):
        fit(tmp_path, disturb, ["r2"], "stop", accumulate_grad_batches=accumulate)


@pytest.mark.parametrize("disturb", [nan, infinite, gradient])
def test_skipped_samples_change_no_weights_and_are_reported(tmp_path, disturb, caplog):
    before, after, last = fit(tmp_path, disturb, ["r1"], "skip")[:3]
    assert torch.equal(before, after)
    assert torch.isfinite(last).all() and not torch.equal(after, last)
    assert "training: 1 samples skipped, as loss or gradient was not finite, among them r1" in caplog.text


@pytest.mark.parametrize("bad", ["r0", "r1"])
def test_the_other_batches_of_a_step_still_count(tmp_path, bad):
    skipped = fit(tmp_path, nan, [bad], "skip", accumulate_grad_batches=2)
    without = fit(tmp_path, nothing, [bad], "stop", accumulate_grad_batches=2)
    # A step of Adam changes weights by about 1e-3, weight decay by 1e-5.
    torch.testing.assert_close(skipped[-1], without[-1], rtol=0, atol=2e-5)
    assert not torch.equal(skipped[0], skipped[1])


def test_a_step_without_a_batch_changes_no_weights_but_a_true_gradient_of_zero_does(tmp_path):
    skipped = fit(tmp_path, nan, ["r2", "r3"], "skip", accumulate_grad_batches=2)
    assert torch.equal(skipped[1], skipped[3])
    zero = fit(tmp_path, nothing, ["r1"], "skip")
    assert not torch.equal(zero[0], zero[1])  # by Adam's averages


class OfAnotherProcess(pl.Callback):
    """Adds the gradient of another process to the average."""

    def on_after_backward(self, trainer, module):
        module.model.decoder.embed_tokens.weight.grad += 1


@pytest.mark.parametrize("callbacks", [[], [OfAnotherProcess()]])
def test_a_process_that_only_skips_stops(tmp_path, callbacks):
    rows = [f"r{i}" for i in range(MAX_IN_A_ROW + 5)]
    with pytest.raises(UserError, match=f"the loss of step {MAX_IN_A_ROW} is nan, like {MAX_IN_A_ROW} in a row"):
        fit(tmp_path, nan, rows, "skip", rows=len(rows), callbacks=callbacks)
    fit(tmp_path, nan, rows[1::2], "skip", rows=len(rows))  # a step between each two


@pytest.fixture
def sharded():
    """Settings of a run of one process with sharded weights."""
    if not WORKS_ON_CPUS:
        pytest.skip("this PyTorch shards weights on GPUs only")
    with mock.patch.dict(os.environ):  # Lightning's launcher sets variables
        yield {"strategy": FullySharded(reshard_after_forward=True), "devices": 1}
    dist.destroy_process_group()


@pytest.mark.parametrize("disturb", [nan, gradient])
def test_with_sharded_weights_a_bad_batch_skips_its_whole_step_and_no_other(tmp_path, disturb, sharded, caplog):
    weights = fit(tmp_path, disturb, ["r2"], "skip", rows=6, accumulate_grad_batches=2, **sharded)
    assert torch.equal(weights[1], weights[3])
    assert torch.isfinite(weights[5]).all() and not torch.equal(weights[3], weights[5])
    assert "training: 2 samples skipped, as loss or gradient was not finite, among them r2, r3" in caplog.text


def test_with_sharded_weights_a_run_stops_as_others_do(tmp_path, sharded):
    with pytest.raises(UserError, match="the loss of step 3 is nan, with the samples r2; "):
        fit(tmp_path, nan, ["r2"], "stop", **sharded)


def test_samples_of_all_processes_are_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("training.nonfinite.gather", lambda own: [*own, "other"])
    with pytest.raises(UserError, match="the gradient of step 3 is not finite, with the samples r2, other;"):
        fit(tmp_path, gradient, ["r2"], "stop")
    fit(tmp_path, nan, ["r1"], "skip")
    assert "2 samples skipped, as loss or gradient was not finite, among them r1, other" in caplog.text


class Logged(pl.Callback):
    """The logged loss after each batch, which is that of an earlier batch if this one logged none."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, *args):
        self.losses.append(trainer.callback_metrics["train/loss"].item())


def without_terms(self, batch):
    """A loss and terms that are NaN."""
    loss = TrainingModule.loss(self, batch)
    if batch.ids[0] not in self.bad:
        return loss
    return Loss(loss.sum * math.nan, loss.sample_size, {name: term * math.nan for name, term in loss.terms.items()})


def test_a_skipped_batch_is_in_no_logged_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(Disturbed, "loss", without_terms)
    single, first_of_two = Logged(), Logged()
    fit(tmp_path, None, ["r1"], "skip", callbacks=[single])
    assert single.losses[1] == single.losses[0] and torch.tensor(single.losses).isfinite().all()
    monkeypatch.setattr("training.module.all_reduce_sum", lambda own: own + 3.0)  # another rank: 3 tokens, terms 3
    fit(tmp_path, None, ["r1"], "skip", callbacks=[first_of_two])
    assert first_of_two.losses[1] == 1.0 and torch.tensor(first_of_two.losses).isfinite().all()


def test_running_statistics_that_are_not_finite_stop_a_run(tmp_path, monkeypatch):
    loss = TrainingModule.loss

    def damaging(self, batch):
        norm = next(m for m in self.model.modules() if isinstance(m, nn.BatchNorm2d))
        norm.running_mean[0] = math.nan
        return loss(self, batch)

    monkeypatch.setattr(TrainingModule, "loss", damaging)
    with pytest.raises(UserError, match="running_mean is not finite since step 1; look at the samples r0"):
        fit(tmp_path, nan, ["r0"], "skip")


def test_an_unknown_choice_is_refused():
    task = SimpleNamespace(processor=SimpleNamespace(tree=None))
    with pytest.raises(UserError, match="on_nonfinite=skipp is not one of stop, skip; did you mean 'skip'"):
        TrainingModule(OFAModel(MICRO), task, None, None, None, Freezing(), on_nonfinite="skipp")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_at_16_mixed_the_scaler_skips_steps_and_a_bad_loss_still_stops(tmp_path):
    settings = {"accelerator": "gpu", "devices": 1, "precision": "16-mixed"}
    weights = fit(tmp_path, gradient, ["r1"], "stop", **settings)
    assert torch.equal(weights[0], weights[1]) and torch.isfinite(weights[-1]).all()
    with pytest.raises(UserError, match="the loss of step 2 is nan"):
        fit(tmp_path, nan, ["r1"], "stop", **settings)
    skipped = fit(tmp_path, nan, ["r1"], "skip", **settings)
    assert torch.equal(skipped[0], skipped[1]) and not torch.equal(skipped[1], skipped[2])
