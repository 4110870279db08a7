"""The loss over the next tokens of an answer tree, and other allowed ids."""

import random

import pytest
import torch
from helpers.losses import loss_of_states

from criterions.base import AllowedIds
from criterions.label_smoothing import LabelSmoothedCrossEntropy
from ofa.errors import UserError
from ofa.generation.prefix_tree import PrefixTree

CRITERION = LabelSmoothedCrossEntropy(label_smoothing=0.1)
ANSWERS = [[20, 30], [20], [20, 30, 40], [50, 60], [70, 71, 72]]
TREE = PrefixTree(ANSWERS)


def states(model, target):
    """Decoder states [B, T, D]."""
    torch.manual_seed(1)
    return torch.randn(*target.shape, model.config.d_model).requires_grad_()


def padded(answers, length):
    return torch.tensor([[*a, 2] + [1] * (length - 1 - len(a)) for a in answers])


def test_it_is_the_loss_over_the_whole_vocabulary_masked(model):
    rng = random.Random(0)
    answers = [[rng.choice((10, 200, 3000, 50000)) for _ in range(rng.randint(1, 3))] for _ in range(20)]
    tree, target = PrefixTree(answers), padded(answers, 5)
    hidden = states(model, target)
    weight = model.decoder.output_projection.weight
    found = loss_of_states(CRITERION, model, hidden, target, tree=tree)
    gradients = torch.autograd.grad(found.sum, [hidden, weight])

    expected = torch.zeros(())
    for row, answer in enumerate(answers):
        for t, token in enumerate([*answer, 2]):
            ids = tree.next_tokens(answer[:t])
            log_p = (hidden[row, t] @ weight.T)[ids].log_softmax(-1)
            eps = 0.1 / (len(ids) - 1 + 1e-6)
            if len(ids) > 1:
                expected = expected - (1 - 0.1 - eps) * log_p[ids.index(token)] - eps * log_p.sum()
    assert found.sum.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.sample_size == sum(len(answer) + 1 for answer in answers)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, [hidden, weight]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [dict(), dict(encouraging_log_end=0.75), dict(encouraging_log_end=1.0)])
def test_tokens_without_an_alternative_have_no_loss_and_gradient(model, options):
    target = torch.tensor([[1, 1, 71, 72, 2]])  # after 70
    hidden = states(model, target)
    tree = PrefixTree([[71, 72]])
    loss = loss_of_states(LabelSmoothedCrossEntropy(0.1, **options), model, hidden, target, tree=tree)
    loss.sum.backward()
    assert loss.terms["nll"] == 0
    assert loss.sum.isfinite() if options else loss.sum == 0  # the encouraging bonus of a certain token is a constant
    assert not hidden.grad.any()


def test_padding_before_the_answer_changes_nothing(model):
    target = padded(ANSWERS, 5)
    hidden = states(model, target)
    expected = loss_of_states(CRITERION, model, hidden, target, tree=TREE)
    hidden, target = torch.cat([hidden[:, :2], hidden], 1), torch.nn.functional.pad(target, (2, 0), value=1)
    found = loss_of_states(CRITERION, model, hidden, target, tree=TREE)
    assert found.sum.item() == pytest.approx(expected.sum.item(), rel=1e-6)
    assert found.sample_size == expected.sample_size


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_weights_scale_it(model, weight):
    target = padded(ANSWERS, 5)
    hidden = states(model, target)
    each = [loss_of_states(CRITERION, model, hidden[i : i + 1], target[i : i + 1], tree=TREE) for i in range(5)]
    weights = torch.tensor([1, 1, weight, 1, 1])
    found = loss_of_states(CRITERION, model, hidden, target, weights=weights, tree=TREE)
    for name in ("loss", "nll"):
        expected = sum(w * loss.terms[name] for w, loss in zip(weights, each, strict=True))
        assert found.terms[name].item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(found.sum, hidden)
    assert gradient.isfinite().all()
    assert gradient[2].any() == (weight > 0)


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_two_equal_passes_do_not_diverge_and_others_do_so_finitely(model, weight):
    target, weights = padded(ANSWERS, 5).repeat(2, 1), torch.full((10,), weight)
    criterion, hidden = LabelSmoothedCrossEntropy(rdrop_alpha=2.0, encouraging_log_end=0.75), states(model, target)
    equal = loss_of_states(criterion, model, hidden[:5].repeat(2, 1, 1), target, weights=weights, tree=TREE)
    assert equal.terms["rdrop"] == 0
    different = loss_of_states(criterion, model, hidden, target, weights=weights, tree=TREE)
    assert (different.terms["rdrop"] > 0) == (weight > 0)
    different.sum.backward()
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("answer", [[20, 99], [99], [50], [20, 30, 40, 40]])
def test_a_target_outside_the_tree_is_refused_by_its_tokens(model, answer):
    target = padded([*ANSWERS, answer], 6)
    message = rf"target \[{', '.join(map(str, [*answer, 2]))}\] is none of the tree's answers"
    with pytest.raises(UserError, match=message):
        loss_of_states(CRITERION, model, states(model, target), target, tree=TREE)


def test_a_tree_together_with_a_constraint_range_is_refused():
    with pytest.raises(UserError, match="criterion.constraint_range=bins: the task allows its listed answers only"):
        AllowedIds(constraint_range="bins", tree=TREE)


@pytest.mark.parametrize(
    ("constraint_range", "expected"), [("bins", (58457, 59457)), ("codes", (50265, 58457)), ([7, 9], [7, 9])]
)
def test_a_range_is_named_or_a_pair(constraint_range, expected):
    assert AllowedIds(constraint_range=constraint_range).range == expected


@pytest.mark.parametrize("constraint_range", ["bin", [9, 7], 3])
def test_any_other_range_is_refused(constraint_range):
    with pytest.raises(UserError, match="constraint_range="):
        AllowedIds(constraint_range=constraint_range)
