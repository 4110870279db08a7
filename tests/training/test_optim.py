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


def test_without_freezing_everything_that_took_part_changes(model):
    changed = step(model, Freezing())
    assert {"encoder.embed_tokens.weight", "encoder.embed_images.conv1.weight"} <= changed
    assert "encoder.embed_images.bn1.running_mean" in changed


def test_a_frozen_backbone_keeps_weights_and_statistics(model):
    changed = step(model, Freezing(backbone=True))
    assert not any(name.startswith("encoder.embed_images.") for name in changed)
    assert "encoder.image_proj.weight" in changed


def test_frozen_batch_norm_keeps_its_parameters_while_convolutions_learn(model):
    changed = step(model, Freezing(batch_norm=True))
    assert not any(".bn" in name or "downsample.1" in name for name in changed)
    assert "encoder.embed_images.conv1.weight" in changed


def test_frozen_embeddings_stay_in_all_their_places(model):
    changed = step(model, Freezing(embeddings=True))
    assert not any("embed_tokens" in name or "output_projection" in name for name in changed)
    assert "encoder.layers.0.fc1.weight" in changed
