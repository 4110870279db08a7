import math

import pytest
import torch

from criterions.encouraging import encouraging_bonus


@pytest.mark.parametrize("log_end", [0.5, 0.75, 1.0])
def test_the_bonus_is_the_logarithm_up_to_its_end(log_end):
    p = torch.linspace(0, log_end - 0.01, 9)
    torch.testing.assert_close(encouraging_bonus(p, log_end), (1 - p).log())


def test_above_the_end_it_continues_as_the_tangent():
    p = torch.tensor([0.75, 0.8, 1.0], requires_grad=True)
    bonus = encouraging_bonus(p, 0.75)
    torch.testing.assert_close(bonus, math.log(0.25) - 4 * (p - 0.75))
    bonus.sum().backward()
    torch.testing.assert_close(p.grad, torch.full((3,), -4.0))


def test_a_logarithm_without_end_is_finite_at_certainty():
    p = torch.tensor([1.0], requires_grad=True)
    encouraging_bonus(p, 1.0).sum().backward()
    assert p.grad.isfinite().all()
