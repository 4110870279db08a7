"""The positions that a feature loss compares, and projections to the teacher's width."""

import pytest
import torch

from criterions.distillation.criterion import Masks, build_projection
from criterions.distillation.layer_mapping import ACTIVATIONS, FeaturePair

MASKS = Masks(source=torch.tensor([[1, 1, 0]]).bool(), target=torch.tensor([[1, 0]]).bool())


@pytest.mark.parametrize(
    ("stack", "feature", "expected"),
    [
        ("encoder", "hidden", [1, 1, 0]),
        ("encoder", "value", [1, 1, 0]),
        ("encoder", "attention", [[1, 1, 0], [1, 1, 0], [0, 0, 0]]),
        ("decoder", "key", [1, 0]),
        ("decoder", "attention", [[1, 0], [0, 0]]),
        ("cross", "query", [1, 0]),
        ("cross", "key", [1, 1, 0]),
        ("cross", "attention", [[1, 1, 0], [0, 0, 0]]),
    ],
)
def test_a_feature_loss_compares_the_positions_that_are_not_padding(stack, feature, expected):
    pair = FeaturePair(stack, feature, "any", (0,), (0,))
    assert MASKS.of(pair).int().tolist() == [expected]


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_a_projection_starts_small_at_the_teachers_width(kind):
    projection = build_projection(kind, 256, 768)
    assert projection(torch.randn(2, 5, 256)).shape == (2, 5, 768)
    weight, bias = projection.parameters()
    assert 0.019 < weight.std() < 0.021
    assert not bias.any()


def test_an_activation_follows():
    x = 100 * torch.randn(3, 64)
    assert build_projection("linear", 64, 64)(x).min() < -1
    assert build_projection("relu", 64, 64)(x).min() == 0
    assert build_projection("tanh", 64, 64)(x).abs().max() <= 1
