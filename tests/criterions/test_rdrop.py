import pytest
import torch
from torch.nn.functional import kl_div

from criterions.base import AllowedIds
from criterions.label_smoothing import LabelSmoothedCrossEntropy, pass_divergence
from ofa.errors import UserError


def test_the_divergence_is_the_mean_of_both_directions():
    p, q = torch.randn(2, 3, 5).log_softmax(-1)
    both = (kl_div(p, q, reduction="none", log_target=True) + kl_div(q, p, reduction="none", log_target=True)).sum(-1)
    torch.testing.assert_close(pass_divergence(torch.cat([p, q])), both / 2)


def test_both_passes_of_a_token_are_dropped_together():
    criterion = LabelSmoothedCrossEntropy(label_smoothing=0.0, rdrop_alpha=1.0, drop_worst_ratio=0.5)
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0], [2.0, 0.0]]).requires_grad_()
    criterion(logits, AllowedIds(2).targets(torch.zeros(4, 1, dtype=torch.long)), 1).sum.backward()
    assert logits.grad.any(-1).tolist() == [True, False, True, False]


def test_an_odd_number_of_rows_is_refused():
    targets = AllowedIds(9).targets(torch.tensor([[5, 2]] * 3))
    with pytest.raises(UserError, match="criterion.rdrop_alpha=0.5 .* 3 rows"):
        LabelSmoothedCrossEntropy(rdrop_alpha=0.5)(torch.randn(6, 9), targets, 0)


@pytest.mark.parametrize(("alpha", "passes"), [(0.0, 1), (0.5, 2)])
def test_the_criterion_declares_how_many_passes_to_stack(alpha, passes):
    assert LabelSmoothedCrossEntropy(rdrop_alpha=alpha).passes == passes
