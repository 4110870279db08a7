"""The positions that a feature loss compares."""

import pytest
import torch

from criterions.distillation.layer_mapping import FeaturePair
from criterions.distillation.states import Masks

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
