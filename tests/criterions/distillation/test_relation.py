import torch
from torch.nn.functional import kl_div

from criterions.distillation.relation import relation_divergence


def test_the_divergence_is_that_of_the_teacher_from_the_student():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 4, 5, 8)
    p, q = ((x @ x.transpose(-1, -2) / 8**0.5).log_softmax(-1) for x in (student, teacher))
    expected = kl_div(p, q, reduction="none", log_target=True).mean()
    torch.testing.assert_close(relation_divergence(student, teacher, torch.ones(2, 5).bool()), expected)


def test_the_width_of_the_teachers_heads_may_differ():
    student, teacher = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 5, 16)
    assert relation_divergence(student, teacher, torch.ones(2, 5).bool()) > 0
