import pytest
import torch

from criterions.distillation.hidden import nst, pkd


def test_a_sample_without_image_has_no_first_position_to_compare():
    student, teacher = torch.randn(2, 2, 3, 4)
    mask = torch.tensor([[True, True, True], [False, True, True]])
    assert pkd(student, teacher, mask).item() == pytest.approx(pkd(student[:1], teacher[:1], mask[:1]).item())
    assert pkd(student[1:], teacher[1:], mask[1:]).item() == 0


def test_widths_may_differ_where_positions_are_compared_with_each_other():
    x1, x2 = torch.randn(2, 2, 3, 4)
    doubled = [x.repeat(1, 1, 2) for x in (x1, x2)]
    assert nst([x1, x2], doubled, torch.ones(2, 3).bool()).item() == pytest.approx(0, abs=1e-6)
