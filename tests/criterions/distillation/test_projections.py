import pytest
import torch

from criterions.distillation.criterion import build_projection
from criterions.distillation.layer_mapping import ACTIVATIONS


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
