"""The layer mapping of two architectures, and refusals of impossible ones."""

import pytest
from rich.console import Console

from criterions.distillation.feature_losses import FEATURE_LOSSES
from criterions.distillation.layer_mapping import (
    STACKS,
    FeatureLossRule,
    FeaturePair,
    layer_mapping_table,
    map_layers,
    read_rules,
)
from ofa.config import OFAConfig
from ofa.errors import UserError

TINY, BASE, LARGE, HUGE = (OFAConfig.from_name(name) for name in ("tiny", "base", "large", "huge"))


def layers_of(rule, loss="attention_mse_sum", stack="encoder", student=TINY, teacher=LARGE, projection=None):
    pairs = FeatureLossRule(rule, loss, stack, projection=projection).pairs(student, teacher)
    return [(*pair.student_layers, *pair.teacher_layers) for pair in pairs]


@pytest.mark.parametrize(
    ("rule", "options", "pairs"),
    [
        ("first", {}, [(0, 0), (1, 1), (2, 2), (3, 3)]),
        ("last", {}, [(0, 8), (1, 9), (2, 10), (3, 11)]),
        ("gap", {}, [(0, 2), (1, 5), (2, 8), (3, 11)]),
        ("gap", dict(teacher=BASE), [(0, 0), (1, 1), (2, 2), (3, 3)]),  # 6 / 4 is rounded down
        ("first2", {}, [(0, 0), (1, 1)]),
        ("last1", {}, [(3, 11)]),
        ("last1", dict(teacher=HUGE), [(3, 23)]),
        ("last1", dict(stack="decoder", teacher=HUGE), [(3, 11)]),
        ("last1", dict(stack="cross", teacher=HUGE), [(3, 11)]),
        ([[0, 5], [3, 2]], {}, [(0, 5), (3, 2)]),
        # hidden states include the embeddings
        ("gap", dict(loss="hidden_mse", projection="linear"), [(0, 0), (1, 3), (2, 6), (3, 9), (4, 12)]),
        ("last1", dict(loss="cos", projection="linear"), [(0, 0), (4, 12)]),
        # a loss of two layers takes the states of consecutive pairs
        ("gap", dict(loss="nst"), [(0, 1, 0, 3), (1, 2, 3, 6), (2, 3, 6, 9), (3, 4, 9, 12)]),
    ],
)
def test_a_rule_pairs_the_students_layers_with_the_teachers(rule, options, pairs):
    assert layers_of(rule, **options) == pairs


def test_a_list_holds_compact_forms_and_settings_with_weights_of_their_own():
    rules = read_rules(
        ["first:cos:encoder, last2:nst:decoder", {"rule": [[0, 1]], "loss": "hidden_mse", "stack": "encoder"},
         {"rule": "gap", "loss": "pkd", "stack": "decoder", "weight": 3, "projection": None}],
        weight=0.5, projection="tanh",
    )  # fmt: skip
    assert [(str(rule), rule.weight, rule.projection) for rule in rules] == [
        ("first:cos:encoder", 0.5, "tanh"),
        ("last2:nst:decoder", 0.5, None),
        ("[[0, 1]]:hidden_mse:encoder", 0.5, "tanh"),
        ("gap:pkd:decoder", 3, None),
    ]
    rules = [FeatureLossRule("gap", "cos", "encoder"), FeatureLossRule("last2", "value_relation", "cross")]
    assert read_rules("gap:cos:encoder, last2:value_relation:cross") == rules
    assert read_rules(None) == read_rules([]) == []


@pytest.mark.parametrize(
    ("feature_losses", "message"),
    [
        (3, "distill.feature_losses=3 is neither a list nor rule:loss:stack"),
        ([3], "feature_losses has 3; take rule:loss:stack, or settings among rule, loss, stack, weight, projec"),
        ([{"rule": "gap", "loss": "cos"}], "of which the first three are required"),
        ([{"rule": "gap", "loss": "cos", "stack": "encoder", "wieght": 2}], "settings among"),
        ([{"rule": "gap", "loss": "cos", "stack": "encoder", "weight": "x"}], "weight=x is not a number"),
        ([{"rule": "gap", "loss": ["cos"], "stack": "encoder"}], r"\['cos'\] is not a loss; take one of"),
        ("first:hidden_mse", "'first:hidden_mse', which is not rule:loss:stack"),
        ("", "'', which is not rule:loss:stack"),
        ("first:hidden:encoder", "'hidden' is not a loss"),
    ],
)
def test_anything_else_is_refused(feature_losses, message):
    with pytest.raises(UserError, match=message):
        read_rules(feature_losses)


@pytest.mark.parametrize("loss", FEATURE_LOSSES)
@pytest.mark.parametrize("stack", STACKS)
def test_every_loss_maps_two_models_of_one_architecture(loss, stack):
    if stack == "cross" and FEATURE_LOSSES[loss].feature == "hidden":
        return
    assert map_layers([FeatureLossRule("first", loss, stack)], TINY, TINY)


def test_a_pair_contains_all_that_is_needed_to_compute_it():
    rule = FeatureLossRule([[0, 11]], "query_relation", "cross", weight=3.0)
    assert map_layers([rule], TINY, LARGE) == [FeaturePair("cross", "query", "query_relation", (0,), (11,), 3.0, None)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rule="middle"), "there is no layer rule 'middle'; take first, last, gap"),
        (dict(rule="first0"), "there is no layer rule 'first0'"),
        (dict(rule="gap2"), "there is no layer rule 'gap2'"),
        (dict(rule=[[0, 1, 2]]), "neither a rule nor pairs of numbers"),
        (dict(rule=[0, 1]), "neither a rule nor pairs of numbers"),
        (dict(rule=[]), "neither a rule nor pairs of numbers"),
        (dict(rule=3), "neither a rule nor pairs of numbers"),
        (dict(loss="hiden_mse"), "'hiden_mse' is not a loss; .* did you mean 'hidden_mse'"),
        (dict(stack="coder"), "'coder' is not a stack"),
        (dict(projection="gelu"), "'gelu' is not a projection; take one of linear, relu, tanh"),
        (dict(weight=-1.0), "weight=-1.0 is not a number of at least 0"),
        (dict(weight=float("nan")), "weight=nan is not a number of at least 0"),
        (dict(projection=["relu"]), r"\['relu'\] is not a projection"),
        (dict(stack="cross"), "cross-attention has no hidden states"),
        (dict(loss="attention_mse", projection="linear"), "needs no equal widths; leave the projection out"),
    ],
)
def test_a_rule_that_fits_no_models_is_refused(options, message):
    with pytest.raises(UserError, match=f"distill.feature_losses, .*{message}"):
        FeatureLossRule(**(dict(rule="first", loss="hidden_mse", stack="encoder") | options))


@pytest.mark.parametrize(
    ("text", "student", "teacher", "message"),
    [
        ("first:attention_mse:encoder", TINY, LARGE, "4 heads and the teacher 16.*; take attention_mse_sum"),
        ("first:attention_ce:cross", TINY, LARGE, "4 heads and the teacher 16.*; take attention_ce_mean"),
        ("first:hidden_mse:encoder", TINY, LARGE, "256 wide and the teacher 1024; set the projection"),
        ("first:fsp:decoder", TINY, LARGE, "256 wide and the teacher 1024; set the projection"),
        ("first:nst:encoder", LARGE, TINY, "student layer 4 .* teacher layer 4, and the teacher has layers 0 to 3"),
        ("last:nst:encoder", LARGE, TINY, "student layer 0 .* teacher layer -8, and the teacher has layers 0 to 3"),
        ("gap:nst:encoder", LARGE, TINY, "student layer 0 .* teacher layer -1, and the teacher has layers 0 to 3"),
        ("first5:nst:encoder", TINY, LARGE, "student layer 4 .* and the student has layers 0 to 3"),
        ("last5:nst:encoder", TINY, LARGE, "student layer -1 .* and the student has layers 0 to 3"),
    ],
)
def test_an_impossible_mapping_is_refused_from_the_configurations(text, student, teacher, message):
    with pytest.raises(UserError, match=f"distill.feature_losses, {text}: .*{message}"):
        map_layers(read_rules(text), student, teacher)


def test_an_explicit_layer_that_is_missing_is_refused():
    with pytest.raises(UserError, match="teacher layer 12, and the teacher has layers 0 to 11"):
        layers_of([[0, 0], [1, 12]])


def test_the_table_counts_layers_alike_for_all_losses():
    rules = read_rules("last1:hidden_mse:encoder,last1:nst:decoder,last1:attention_mse_sum:cross", 0.5, "relu")
    console = Console(width=120, record=True)
    console.print(layer_mapping_table(map_layers(rules, TINY, LARGE)))
    lines = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in console.export_text().splitlines()]
    assert [line for line in lines if len(line) == 6] == [
        ["encoder", "hidden_mse", "embeddings", "embeddings", "0.5", "relu"],
        ["encoder", "hidden_mse", "3", "11", "0.5", "relu"],
        ["decoder", "nst", "embeddings to 3", "embeddings to 11", "0.5", ""],
        ["cross", "attention_mse_sum", "3", "11", "0.5", ""],
    ]
