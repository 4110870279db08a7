"""The losses on intermediate states equal the recorded ones, by way of the names in the configuration."""

import pytest
import torch
from helpers.golden import load_json, load_tensors
from torch.nn.functional import kl_div

from criterions.distillation.feature_losses import (
    FEATURE_LOSSES,
    attention_ce,
    attention_ce_mean,
    attention_mse,
    attention_mse_sum,
    nst,
    pkd,
    relation_divergence,
    valid_cells,
)

RECORDED = load_json("kd.json")
INPUTS = load_tensors("kd.npz")
MASKS = {"nomask": torch.ones(3, 6, dtype=torch.bool), "mask": INPUTS["mask"].bool()}
RELATIONS = ["query_relation", "key_relation", "value_relation"]


def features_of(name, heads=""):
    """Features of student and teacher, of two layers where the loss needs them."""
    feature = {"attention": "attention", "hidden": "hidden"}.get(FEATURE_LOSSES[name].feature, "values")
    student, teacher = [INPUTS[f"{feature}_student"]], [INPUTS[f"{feature}_teacher{heads}"]]
    if FEATURE_LOSSES[name].of_two_layers:
        student, teacher = [*student, INPUTS["hidden_student_2"]], [*teacher, INPUTS["hidden_teacher_2"]]
    return student, teacher


def loss_of(name, student, teacher, mask):
    if FEATURE_LOSSES[name].feature == "attention":
        mask = valid_cells(mask, mask)
    return FEATURE_LOSSES[name](student, teacher, mask)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    ("name", "heads", "case"),
    [(name, "", name) for name in FEATURE_LOSSES if name not in RELATIONS]
    + [(name, "_8heads", f"{name}_4vs8heads") for name in ("attention_mse_sum", "attention_ce_mean")],
)
def test_the_loss_equals_the_recorded_one(name, heads, case, mask):
    loss = loss_of(name, *features_of(name, heads), MASKS[mask])
    assert loss.item() == pytest.approx(RECORDED[f"{case}/{mask}"], abs=1e-5, rel=1e-5)


@pytest.mark.parametrize(("heads", "case"), [("", "same_heads"), ("_8heads", "4vs8heads")])
@pytest.mark.parametrize("name", RELATIONS)
def test_relations_have_the_recorded_loss(name, heads, case):
    # Queries are not among the recorded ones; they are compared as keys and values are.
    recorded = RECORDED[f"{name.replace('query', 'key')}/{case}"]
    loss = loss_of(name, *features_of(name, heads), MASKS["nomask"])
    assert loss.item() == pytest.approx(recorded, abs=1e-7, rel=1e-5)


def garbled(features, length):
    """The features with other numbers at the positions from `length` on, which are padding."""
    return [torch.cat([x[..., :length, :], torch.randn_like(x[..., length:, :])], -2) for x in features]


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_what_stands_at_padding_has_no_influence_and_no_gradient(name):
    mask = torch.arange(6).expand(3, 6) < 4
    student, teacher = features_of(name)
    student = [x.clone().requires_grad_() for x in student]
    loss = loss_of(name, student, teacher, mask)
    loss.backward()
    for x in student:
        assert x.grad.isfinite().all()
        assert x.grad[..., :4, :].any()
        assert not x.grad[..., 4:, :].any()
    torch.testing.assert_close(loss_of(name, garbled(student, 4), garbled(teacher, 4), mask), loss)


@pytest.mark.parametrize("name", [name for name in FEATURE_LOSSES if not name.startswith("attention_ce")])
def test_a_padded_sample_has_the_same_loss_as_when_it_is_cut(name):
    student, teacher = features_of(name)
    padded = loss_of(name, student, teacher, torch.arange(6).expand(3, 6) < 4)
    columns = 4 if FEATURE_LOSSES[name].feature == "attention" else None
    student, teacher = ([x[..., :4, :columns] for x in xs] for xs in (student, teacher))
    torch.testing.assert_close(loss_of(name, student, teacher, torch.ones(3, 4).bool()), padded)


@pytest.mark.parametrize("name", [name for name in FEATURE_LOSSES if not name.startswith("attention_ce")])
def test_a_student_that_equals_its_teacher_has_no_loss(name):
    student, _ = features_of(name)
    torch.testing.assert_close(loss_of(name, student, student, MASKS["mask"]), torch.tensor(0.0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_half_precision_is_compared_in_float32(name):
    student, teacher = ([x.bfloat16() for x in xs] for xs in features_of(name))
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(name, student, teacher, MASKS["mask"])
    assert loss.dtype == torch.float32
    exact = loss_of(name, [x.float() for x in student], [x.float() for x in teacher], MASKS["mask"])
    torch.testing.assert_close(loss, exact)


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_parts_of_a_batch_that_count_by_their_size_have_the_loss_of_the_whole(name):
    student, teacher = features_of(name)
    lengths = torch.tensor([[6], [4], [3]])
    mask = torch.arange(6).expand(3, 6) < lengths
    total, sizes = 0, 0
    for rows in (slice(0, 1), slice(1, 3)):
        of_rows = ([x[rows] for x in xs] for xs in (student, teacher))
        cells = valid_cells(mask[rows], mask[rows])
        size = FEATURE_LOSSES[name].size(cells if FEATURE_LOSSES[name].feature == "attention" else mask[rows])
        total, sizes = total + size * loss_of(name, *of_rows, mask[rows]), sizes + size
    torch.testing.assert_close(total / sizes, loss_of(name, student, teacher, mask))


@pytest.mark.parametrize("loss", [attention_mse, attention_mse_sum, attention_ce, attention_ce_mean])
def test_cross_attention_has_fewer_queries_than_keys(loss):
    torch.manual_seed(0)
    student, teacher = torch.rand(2, 2, 4, 3, 7).softmax(-1)
    queries, keys = torch.ones(2, 3).bool(), torch.ones(2, 7).bool()
    assert loss(student, teacher, valid_cells(queries, keys)).isfinite()
    queries[1] = False
    expected = loss(student[:1], teacher[:1], torch.ones(1, 3, 7).bool())
    torch.testing.assert_close(loss(student, teacher, valid_cells(queries, keys)), expected)


def test_every_head_has_the_same_weight():
    (student, teacher), cells = torch.rand(2, 1, 4, 3, 3), torch.ones(1, 3, 3).bool()
    twice = attention_mse(student.repeat(1, 2, 1, 1), teacher.repeat(1, 2, 1, 1), cells)
    torch.testing.assert_close(twice, attention_mse(student, teacher, cells))


def test_a_sample_without_image_has_no_first_position_to_compare():
    student, teacher = torch.randn(2, 2, 3, 4)
    mask = torch.tensor([[True, True, True], [False, True, True]])
    assert pkd(student, teacher, mask).item() == pytest.approx(pkd(student[:1], teacher[:1], mask[:1]).item())
    assert pkd(student[1:], teacher[1:], mask[1:]).item() == 0


def test_widths_may_differ_where_positions_are_compared_with_each_other():
    layers = list(torch.randn(2, 2, 3, 4))
    doubled = [x.repeat(1, 1, 2) for x in layers]
    assert nst(layers, doubled, torch.ones(2, 3).bool()).item() == pytest.approx(0, abs=1e-6)
    student, teacher = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 5, 16)
    assert relation_divergence(student, teacher, torch.ones(2, 5).bool()) > 0


def test_the_relation_divergence_is_that_of_the_teacher_from_the_student():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 4, 5, 8)
    p, q = ((x @ x.transpose(-1, -2) / 8**0.5).log_softmax(-1) for x in (student, teacher))
    expected = kl_div(p, q, reduction="none", log_target=True).mean()
    torch.testing.assert_close(relation_divergence(student, teacher, torch.ones(2, 5).bool()), expected)
