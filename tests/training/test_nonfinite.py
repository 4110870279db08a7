"""A loss or a gradient that is infinite or not a number stops a run by name, or leaves no trace but a count."""

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
    """Learns as usual, but for the batches whose first sample is among `bad`, to whose loss something is done."""

    bad, disturb = (), None

    def loss(self, batch):
        loss = super().loss(batch)
        if batch.ids[0] not in self.bad:
            return loss
        return Loss(self.disturb(loss.sum, self.model.decoder.embed_tokens.weight), loss.sample_size, loss.terms)


def no_number(loss, weight):
    return loss * float("nan")


def infinite(loss, weight):
    return loss + float("inf")


def gradient(loss, weight):
    """The loss is as it was, its gradient is not a number."""
    return loss + (weight * 0).sqrt().sum()


def nothing(loss, weight):
    return loss * 0


class Weights(pl.Callback):
    """Those of the model after every batch."""

    def __init__(self):
        self.after = []

    def on_train_batch_end(self, trainer, module, *args):
        self.after.append(torch.cat([full_tensor(p.detach()).flatten() for p in module.model.parameters()]).clone())


def encode(row, rng, train):
    return Sample(row.values["id"], [0, 11, 2], [8, 9, 2], torch.zeros(3, 32, 32), truth=None)


def fit(tmp_path, disturb, bad, on_nonfinite, rows=4, callbacks=(), **settings):
    """One epoch of one sample a batch, in the file's order; the weights after each batch."""
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
    ("disturb", "message"),
    [
        (no_number, "the loss of update 3 is nan, learning from the samples r2; .*on_nonfinite=skip"),
        (infinite, "the loss of update 3 is inf, learning from the samples r2; "),
        (gradient, "the gradient of update 3 is not finite, learning from the samples r2; "),
    ],
)
def test_by_default_a_run_stops_and_names_update_and_samples(tmp_path, disturb, message):
    with pytest.raises(UserError, match=message):
        fit(tmp_path, disturb, ["r2"], "stop")


def test_a_gradient_is_that_of_all_batches_of_its_update(tmp_path):
    with pytest.raises(UserError, match="the gradient of update 2 is not finite, learning from the samples r2, r3;"):
        fit(tmp_path, gradient, ["r2"], "stop", accumulate_grad_batches=2)


@pytest.mark.parametrize("disturb", [no_number, infinite, gradient])
def test_skipped_samples_make_no_update_and_are_reported(tmp_path, disturb, caplog):
    before, after, last = fit(tmp_path, disturb, ["r1"], "skip")[:3]
    assert torch.equal(before, after)
    assert torch.isfinite(last).all() and not torch.equal(after, last)
    assert "training: left out, as loss or gradient was not finite: 1 samples, among them r1" in caplog.text


@pytest.mark.parametrize("bad", ["r0", "r1"])
def test_the_other_batches_of_an_update_still_make_it(tmp_path, bad):
    skipped = fit(tmp_path, no_number, [bad], "skip", accumulate_grad_batches=2)
    without = fit(tmp_path, nothing, [bad], "stop", accumulate_grad_batches=2)
    # An update of Adam is some 1e-3; 1e-5 the decay of weights that this batch has no use for.
    torch.testing.assert_close(skipped[-1], without[-1], rtol=0, atol=2e-5)
    assert not torch.equal(skipped[0], skipped[1])


def test_an_update_whose_batches_are_all_left_out_is_none(tmp_path):
    weights = fit(tmp_path, no_number, ["r2", "r3"], "skip", accumulate_grad_batches=2)
    assert torch.equal(weights[1], weights[3])


def test_a_true_gradient_of_zero_is_an_update(tmp_path):
    weights = fit(tmp_path, nothing, ["r1"], "skip")
    assert not torch.equal(weights[0], weights[1])  # Adam's averages go on


def test_a_run_that_only_skips_stops(tmp_path):
    rows = MAX_IN_A_ROW + 5
    with pytest.raises(UserError, match=f"the loss of update {MAX_IN_A_ROW} is nan, like {MAX_IN_A_ROW} in a row"):
        fit(tmp_path, no_number, [f"r{i}" for i in range(rows)], "skip", rows=rows)
    fit(tmp_path, no_number, [f"r{i}" for i in range(rows) if i % 2], "skip", rows=rows)  # an update between each two


@pytest.fixture
def sharded():
    """The settings of a run of one process whose weights are sharded, as those of several are."""
    if not WORKS_ON_CPUS:
        pytest.skip("this PyTorch shards weights on GPUs alone")
    with mock.patch.dict(os.environ):  # in which Lightning's launcher leaves words
        yield {"strategy": FullySharded(reshard_after_forward=True), "devices": 1}
    dist.destroy_process_group()


@pytest.mark.parametrize("disturb", [no_number, gradient])
def test_where_weights_are_sharded_one_batch_spoils_its_update_and_no_other(tmp_path, disturb, sharded, caplog):
    weights = fit(tmp_path, disturb, ["r2"], "skip", rows=6, accumulate_grad_batches=2, **sharded)
    assert torch.equal(weights[1], weights[3])
    assert torch.isfinite(weights[5]).all() and not torch.equal(weights[3], weights[5])
    assert "training: left out, as loss or gradient was not finite: 2 samples, among them r2, r3" in caplog.text


def test_where_weights_are_sharded_a_run_stops_as_others_do(tmp_path, sharded):
    with pytest.raises(UserError, match="the loss of update 3 is nan, learning from the samples r2; "):
        fit(tmp_path, no_number, ["r2"], "stop", **sharded)


@pytest.fixture
def another_process(monkeypatch):
    """The first process of two: what is gathered has the sample of the other one behind its own."""
    monkeypatch.setattr("training.nonfinite.gather", lambda own: [*own, "other"])


def test_a_gradient_of_several_processes_names_the_samples_of_all(tmp_path, another_process):
    with pytest.raises(UserError, match="the gradient of update 3 is not finite, learning from the samples r2, other;"):
        fit(tmp_path, gradient, ["r2"], "stop")


def test_what_several_processes_left_out_is_reported_together(tmp_path, another_process, caplog):
    fit(tmp_path, no_number, ["r1"], "skip")
    assert "left out, as loss or gradient was not finite: 2 samples, among them r1, other" in caplog.text


def test_a_process_that_only_skips_stops_though_another_makes_updates(tmp_path):
    class OfAnother(pl.Callback):
        """Its gradient, in the average."""

        def on_after_backward(self, trainer, module):
            module.model.decoder.embed_tokens.weight.grad += 1

    rows = MAX_IN_A_ROW + 5
    with pytest.raises(UserError, match=f"the loss of update {MAX_IN_A_ROW} is nan, like {MAX_IN_A_ROW} in a row"):
        fit(tmp_path, no_number, [f"r{i}" for i in range(rows)], "skip", rows=rows, callbacks=[OfAnother()])


class Logged(pl.Callback):
    """What each batch has logged of the loss and, between them, what there was before."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, *args):
        self.losses.append(trainer.callback_metrics["train/loss"].item())


def without_terms(self, batch):
    """A loss that is no number, and terms that are none."""
    loss = TrainingModule.loss(self, batch)
    if batch.ids[0] not in self.bad:
        return loss
    nan = float("nan")
    return Loss(loss.sum * nan, loss.sample_size, {name: term * nan for name, term in loss.terms.items()})


def test_a_batch_that_is_left_out_is_in_no_logged_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(Disturbed, "loss", without_terms)
    alone, beside = Logged(), Logged()
    fit(tmp_path, None, ["r1"], "skip", callbacks=[alone])
    assert alone.losses[1] == alone.losses[0] and torch.tensor(alone.losses).isfinite().all()
    monkeypatch.setattr("training.module.all_reduce_sum", lambda own: own + 3.0)  # of another: 3 tokens, each term 3
    fit(tmp_path, None, ["r1"], "skip", callbacks=[beside])
    assert beside.losses[1] == 1.0 and torch.tensor(beside.losses).isfinite().all()


def test_statistics_that_are_damaged_for_good_stop_a_run(tmp_path, monkeypatch):
    loss = TrainingModule.loss

    def damaging(self, batch):
        norm = next(m for m in self.model.modules() if isinstance(m, nn.BatchNorm2d))
        norm.running_mean[0] = float("nan")
        return loss(self, batch)

    monkeypatch.setattr(TrainingModule, "loss", damaging)
    with pytest.raises(UserError, match="running_mean is not finite since update 1; look at the samples r0"):
        fit(tmp_path, no_number, ["r0"], "skip")


def test_another_word_is_refused():
    task = SimpleNamespace(processor=SimpleNamespace(tree=None))
    with pytest.raises(UserError, match="on_nonfinite=skipp is not one of stop, skip; did you mean 'skip'"):
        TrainingModule(OFAModel(MICRO), task, None, None, None, Freezing(), on_nonfinite="skipp")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_at_16_mixed_the_scaler_searches_its_scale_and_a_loss_still_stops(tmp_path):
    settings = {"accelerator": "gpu", "devices": 1, "precision": "16-mixed"}
    weights = fit(tmp_path, gradient, ["r1"], "stop", **settings)
    assert torch.equal(weights[0], weights[1]) and torch.isfinite(weights[-1]).all()
    with pytest.raises(UserError, match="the loss of update 2 is nan"):
        fit(tmp_path, no_number, ["r1"], "stop", **settings)
    skipped = fit(tmp_path, no_number, ["r1"], "skip", **settings)
    assert torch.equal(skipped[0], skipped[1]) and not torch.equal(skipped[1], skipped[2])
