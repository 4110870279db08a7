import re

import pytest
import torch
from torch import nn

from ofa.errors import UserError
from training.freezing import Freezing
from training.optim import Optim


def factors(steps=100, **settings):
    optim = Optim(lr=1.0, **settings)
    return [optim.factor(step, steps) for step in range(steps)]


def test_polynomial_decay_rises_over_the_warmup_and_falls_in_a_line():
    found = factors(warmup_ratio=0.1)
    assert found[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert found[10] == 1 and found[55] == pytest.approx(0.5)


def test_cosine_decay_ends_at_end_lr():
    found = factors(decay="cosine", end_lr=0.2, warmup_steps=20)
    assert [found[19], found[60], found[99]] == pytest.approx([1, 0.6, 0.2], abs=1e-3)


def test_a_short_run_has_at_least_one_warmup_step_or_none():
    assert factors(steps=3, warmup_ratio=0.06)[0] == 1
    assert factors(steps=1, warmup_ratio=0.06) == [1]
    assert factors(steps=2, warmup_steps=0)[0] == 1


def test_weight_decay_reaches_biases_and_norms_unless_spared():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    assert len(Optim(lr=1.0).optimizer(model).param_groups) == 1
    decayed, spared = Optim(lr=1.0, decay_1d=False).optimizer(model).param_groups
    assert (len(decayed["params"]), decayed["weight_decay"]) == (1, 0.01)
    assert (len(spared["params"]), spared["weight_decay"]) == (3, 0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "optim.lr=-1"),
        ({"lr": 1.0, "end_lr": 2.0}, "optim.end_lr=2"),
        ({"lr": 1.0, "decay": "linear"}, "optim.decay='linear' is neither"),
        ({"lr": 1.0, "warmup_ratio": 0.1, "warmup_steps": 5}, "both set"),
        ({"lr": 1.0, "warmup_ratio": 3.0}, "optim.warmup_ratio=3"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, message):
    with pytest.raises(UserError, match=message):
        Optim(**settings)


def step(model, freezing):
    """One optimizer step in training mode; the names of the parameters and statistics that changed."""
    freezing.apply(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = Optim(lr=0.1).optimizer(model)
    model.train()
    freezing.keep_in_evaluation_mode(model)
    out = model(torch.tensor([[0, 5, 2]]), torch.randn(1, 3, 32, 32), decoder_input_ids=torch.tensor([[0, 7]]))
    out.logits.square().mean().backward()
    optimizer.step()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize(
    ("freezing", "fixed", "changed"),
    [
        (Freezing(), "nothing", ["encoder.embed_tokens.weight", "encoder.embed_images.conv1.weight",
                                 "encoder.embed_images.bn1.running_mean"]),
        (Freezing(backbone=True), r"encoder\.embed_images\.", ["encoder.image_proj.weight"]),
        (Freezing(batch_norm=True), r"\.bn|downsample\.1", ["encoder.embed_images.conv1.weight"]),
        (Freezing(embeddings=True), "embed_tokens|output_projection", ["encoder.layers.0.fc1.weight"]),
    ],
)  # fmt: skip
def test_frozen_parts_keep_parameters_and_statistics_while_others_change(model, freezing, fixed, changed):
    names = step(model, freezing)
    assert not [name for name in names if re.search(fixed, name)]
    assert names.issuperset(changed)
