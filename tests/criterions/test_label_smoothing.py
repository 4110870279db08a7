"""Losses and their gradients equal the recorded ones."""

import math
from dataclasses import replace

import pytest
import torch
from helpers.golden import fairseq_images, fill_fairseq, fill_hf, load_arrays, load_json
from helpers.losses import loss_of_states
from torch.nn.functional import cross_entropy, kl_div

from criterions.base import AllowedIds, Loss
from criterions.label_smoothing import (
    LabelSmoothedCrossEntropy,
    encouraging_bonus,
    label_smoothed_nll,
    pass_divergence,
)
from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.generation.prefix_tree import PrefixTree
from ofa.model import OFAModel
from ofa.vocabulary import BINS

HF_OPTIONS = {
    "plain": ("tgt", "prev", dict()),
    "constraint_range": ("btgt", "bprev", dict(constraint_range="bins")),
    "drop_worst": ("tgt", "prev", dict(drop_worst_ratio=0.3)),
}


def backward(model, batch, previous, target, weights=None, tree=None, constraint_range=None, **options):
    """The Loss of a batch at step 1, after gradients of sum / sample_size were computed.

    Without dropout a second pass is a copy of the first.
    """
    model.zero_grad()
    criterion = LabelSmoothedCrossEntropy(**options)
    hidden = model.decoder(previous, model.encoder(**batch)).last_hidden_state
    hidden, target = hidden.repeat(criterion.passes, 1, 1), target.repeat(criterion.passes, 1)
    loss = loss_of_states(criterion, model, hidden, target, 1, weights, tree, constraint_range)
    (loss.sum / loss.sample_size).backward()
    return loss


def summary(loss):
    return loss.sum.item(), loss.terms["nll"].item(), loss.sample_size


def close(norm, name, **options):
    """Gradients of the backbone move by up to 1.2e-3 with the number of threads (tests/goldens/README.md)."""
    return pytest.approx(norm, rel=2e-3 if "embed_images" in name else 1e-4, **options)


@pytest.fixture(scope="module", params=["hf_small", "hf_tiny"])
def published(request):
    """What was recorded of a model, as JSON and as arrays, and the model."""
    recorded = load_json(f"{request.param}.json")
    arrays = {k: torch.from_numpy(v) for k, v in load_arrays(f"{request.param}.npz").items()}
    model = OFAModel(OFAConfig.from_dict(recorded["config"])).eval()
    fill_hf(model, recorded["seed"])
    return recorded, arrays, model


@pytest.mark.parametrize("case", HF_OPTIONS)
def test_loss_and_gradient_norms_equal_the_published_ones(published, case):
    recorded, a, model = published
    target, previous, options = HF_OPTIONS[case]
    batch = {k: a[f"in/{k}"] for k in ("input_ids", "patch_images", "patch_masks")}
    loss = backward(model, batch, a[f"in/{previous}"], a[f"in/{target}"], **options)
    expected = recorded["losses"][case]
    assert summary(loss) == pytest.approx(
        (expected["loss_sum"], expected["nll_sum"], expected["sample_size"]), rel=1e-4
    )
    for name, norm in recorded["grad_norms"][case].items():
        assert model.get_parameter(name).grad.norm().item() == close(norm, name, abs=1e-6), name


# Left out: `plain_accuracy` and `constraint_masks(original code)`, errors of the original; drop_best, which never
# arrived there; and cases of other inputs and models, whose loss is that of `plain`.
FAIRSEQ_OPTIONS = {
    **dict.fromkeys(["plain", "plain_text_only", "ignore_eos", "ignore_prefix2", "conf", "constraint_masks"], {}),
    "eps0": dict(label_smoothing=0.0),
    "sentence_avg": dict(sentence_average=True),
    "constraint_range": dict(constraint_range=BINS),
    "drop_worst0.3": dict(drop_worst_ratio=0.3, drop_worst_after=0),
    "drop_worst0.3_not_yet": dict(drop_worst_ratio=0.3, drop_worst_after=5),
    "rdrop(dropout0)": dict(rdrop_alpha=1.0),
    "rdrop_drop_worst0.3(dropout0)": dict(rdrop_alpha=1.0, drop_worst_ratio=0.3),
    "encouraging_log_end0.75": dict(encouraging_log_end=0.75),
    "encouraging_log_end0.5": dict(encouraging_log_end=0.5),
    "encouraging_log_end1.0": dict(encouraging_log_end=1.0),
    "encouraging_constraint_range": dict(encouraging_log_end=0.75, constraint_range=BINS),
    "encouraging_constraint_masks": dict(encouraging_log_end=0.75),
    "encouraging_drop_worst0.3": dict(encouraging_log_end=0.75, drop_worst_ratio=0.3),
}


@pytest.fixture(scope="module")
def brief_model():
    model = OFAModel(OFAConfig.from_name("tiny")).eval()
    fill_fairseq(model, "brief")
    return model


@pytest.mark.parametrize("case", FAIRSEQ_OPTIONS)
def test_loss_and_gradient_norms_equal_the_original_ones(brief_model, case):
    goldens = load_json("fairseq_forward.json")
    recorded = goldens["losses"][case]
    arrays = load_arrays("fairseq_arrays.npz")
    inputs = {
        k: torch.from_numpy(arrays[f"brief/main/in/{k}"]) for k in ("src_tokens", "patch_masks", "patch_images_8")
    }
    batch = {"input_ids": inputs["src_tokens"].long()}
    key, options = "brief/main/in/target", {}
    if case == "plain_text_only":
        batch = {"input_ids": torch.from_numpy(arrays["brief/text/in/src_tokens"]).long()}
        key = "brief/text/in/target"
    else:
        batch |= {"patch_images": fairseq_images("main", inputs), "patch_masks": inputs["patch_masks"]}
    if "constraint_range" in case:
        key = "in/box_target"
    if "constraint_masks" in case:
        key, options["tree"] = "in/trie_target", PrefixTree(goldens["losses_trie_answers"])
    if case == "conf":
        options["weights"] = torch.tensor(goldens["conf"])
    target = torch.from_numpy(arrays[key]).long()
    previous = torch.cat([torch.zeros_like(target[:, :1]), target[:, :-1]], 1).masked_fill(target == 1, 1)
    target = without_ignored(target, case)
    loss = backward(brief_model, batch, previous, target, **FAIRSEQ_OPTIONS[case], **options)
    assert summary(loss) == pytest.approx((recorded["loss"], recorded["nll_loss"], recorded["sample_size"]), rel=1e-4)
    renamed = {"encoder_attn": "cross_attn", "attn_ln": "self_attn_mid_layer_norm", "ffn_layernorm": "ffn_layer_norm",
               "cross_attn_ln": "cross_attn_mid_layer_norm"}  # fmt: skip
    for theirs, norm in recorded.get("grad_norms", {}).items():
        name = ".".join(renamed.get(part, part) for part in theirs.split("."))
        grad = brief_model.get_parameter(name).grad
        if norm is None:
            assert grad is None or not grad.any()
        else:
            assert grad.norm().item() == close(norm, name), name


def without_ignored(target, case):
    """Target [B, T], padded where the original ignored it."""
    if "ignore_eos" in case:
        return target.masked_fill(target == 2, 1)
    if "ignore_prefix" in case:
        prefix = int(case[-1])
        return torch.cat([torch.ones_like(target[:, :prefix]), target[:, prefix:]], 1)
    return target


RANGE, DROP, RDROP = dict(constraint_range=(10, 20)), dict(drop_worst_ratio=0.4), dict(rdrop_alpha=1.0)
LOGIT_OPTIONS = {
    **dict.fromkeys(["plain", "ignore_prefix1", "ignore_eos", "masks", "masks_ignore_eos", "conf", "masks_conf"], {}),
    "eps0": dict(label_smoothing=0.0),
    "sentence_avg": dict(sentence_average=True),
    "range": RANGE,
    "range_ignore_prefix1": RANGE,
    "drop_worst0.4": DROP,
    "drop_worst0.4_range": DROP | RANGE,
    "drop_worst_after5": DROP | dict(drop_worst_after=5),
    "rdrop": RDROP,
    "rdrop_alpha3": dict(rdrop_alpha=3.0),
    "rdrop_range": RDROP | RANGE,
    "rdrop_drop_worst0.4": RDROP | DROP,
    "rdrop_conf": RDROP,
}
ENCOURAGING_OPTIONS = LOGIT_OPTIONS | {
    "log_end0.5": dict(encouraging_log_end=0.5),
    "log_end1": dict(encouraging_log_end=1.0),
    "log_end0.5_eps0": dict(encouraging_log_end=0.5, label_smoothing=0.0),
}


# Left out everywhere: rdrop_masks, nan in the original. At step 0 nothing is dropped yet; from step 1 the original
# of the encouraging loss compared unrelated rows of both passes.
LOGIT_CASES = [(f"label_smoothed/{case}", case, options, 1) for case, options in LOGIT_OPTIONS.items()] + [
    (f"encouraging/{case}/update_num{step}", case, {"encouraging_log_end": 0.75} | options, step)
    for case, options in ENCOURAGING_OPTIONS.items()
    for step in ([0] if "rdrop" in case else [0, 1])
]


@pytest.mark.parametrize(("name", "case", "options", "step"), LOGIT_CASES, ids=[name for name, *_ in LOGIT_CASES])
def test_losses_of_given_logits_equal_the_recorded_ones(name, case, options, step):
    goldens = load_json("fairseq_forward.json")
    recorded, confidence = goldens["criterions_on_logits"]["results"][name], goldens["criterions_on_logits"]["conf"]
    arrays = load_arrays("fairseq_arrays.npz")
    passes = [torch.from_numpy(arrays[f"crit/logits_{p}"]).requires_grad_() for p in "ab"]
    options = dict(options)
    allowed_ids = AllowedIds(40, options.pop("constraint_range", None))
    criterion = LabelSmoothedCrossEntropy(**options)
    logits = torch.cat(passes[: criterion.passes])
    targets = allowed_ids.targets(without_ignored(torch.from_numpy(arrays["crit/target"]).long(), case))
    if "masks" in case:
        allowed = torch.zeros(3, 40, dtype=torch.bool)
        allowed[:, [2, *range(10, 20)]] = True
        allowed[1, 20:30] = True
        targets = replace(targets, allowed=allowed[targets.of_tokens(torch.arange(3))])
    targets = targets.repeat(criterion.passes)
    weights = torch.tensor(confidence).repeat(criterion.passes) if "conf" in case else None
    logits = logits[targets.valid] if targets.ids is None else logits[targets.valid][:, targets.ids]
    loss = criterion(logits, targets, step, weights)
    assert summary(loss) == pytest.approx((recorded["loss"], recorded["nll_loss"], recorded["sample_size"]), rel=1e-5)
    loss.sum.backward()
    for p, logits in zip("ab", passes, strict=True):
        norm = recorded[f"grad_norm_{p}"]
        assert norm is None if logits.grad is None else logits.grad.norm().item() == pytest.approx(norm, rel=1e-5)
    if f"crit/grad_a/{name}" in arrays:
        expected = torch.from_numpy(arrays[f"crit/grad_a/{name}"])
        torch.testing.assert_close(passes[0].grad, expected, rtol=1e-4, atol=1e-6)


def test_smoothing_of_one_half_is_half_the_uniform_distribution():
    logits = torch.randn(5, 7)
    target = torch.tensor([0, 1, 2, 3, 4])
    loss, _ = label_smoothed_nll(logits.log_softmax(-1), target, 0.5, n_others=6)
    wanted = torch.full((5, 7), 0.5 / 6)
    wanted[range(5), target] = 0.5
    torch.testing.assert_close(loss, cross_entropy(logits, wanted, reduction="none"))


def loss_of(target_log_p, step=1, weights=None, **options):
    """The Loss of tokens that have these log-probabilities, each with one other id, and the gradients of the logits."""
    log_p = torch.tensor(target_log_p)
    logits = torch.stack([log_p, torch.log1p(-log_p.exp())], 1).requires_grad_()
    criterion = LabelSmoothedCrossEntropy(**({"label_smoothing": 0.0} | options))
    loss = criterion(logits, AllowedIds(2).targets(torch.zeros(len(logits), 1, dtype=torch.long)), step, weights)
    loss.sum.backward()
    return loss, logits.grad


@pytest.mark.parametrize(("worst", "total", "kept"), [(0.0, 7.0, [1, 3, 4]), (0.2, 3.0, [3, 4])])
def test_the_best_and_the_worst_tokens_are_left_out_of_loss_gradient_and_size(worst, total, kept):
    loss, gradient = loss_of([-0.3, -4.0, -0.1, -2.0, -1.0], drop_best_ratio=0.4, drop_worst_ratio=worst)
    assert summary(loss) == pytest.approx((total, total, len(kept)))
    assert gradient.any(-1).nonzero()[:, 0].tolist() == kept


def test_the_best_tokens_are_kept_up_to_the_named_step():
    losses = [loss_of([-1.0, -2.0], step=step, drop_best_ratio=0.5, drop_best_after=5)[0] for step in (5, 6)]
    assert [loss.sample_size for loss in losses] == [2, 1]


@pytest.mark.parametrize("ratio", ["drop_best_ratio", "drop_worst_ratio"])
def test_a_single_token_is_never_dropped(ratio):
    assert loss_of([-1.0], **{ratio: 0.9})[0].sum.item() == pytest.approx(1.0)


def test_weights_scale_loss_nll_and_gradients_of_their_tokens():
    options = dict(label_smoothing=0.2)
    plain, gradient = loss_of([-1.0], **options)
    weighted, weighted_gradient = loss_of([-1.0, -1.0], weights=torch.tensor([0.5, 3.0]), **options)
    assert summary(weighted) == pytest.approx((3.5 * plain.sum.item(), 3.5, 2))
    torch.testing.assert_close(weighted_gradient, torch.tensor([[0.5], [3.0]]) * gradient)


@pytest.mark.parametrize(
    "options",
    [
        dict(label_smoothing=1.5),
        dict(drop_worst_ratio=1.0),
        dict(drop_best_ratio=-0.1),
        dict(drop_best_ratio=0.5, drop_worst_ratio=0.5),
        dict(rdrop_alpha=-1.0),
        dict(encouraging_log_end=0.0),
        dict(encouraging_log_end=1.1),
    ],
)
def test_impossible_options_are_refused_by_name(options):
    for key, value in options.items():
        with pytest.raises(UserError, match=f"criterion.{key}={value}"):
            LabelSmoothedCrossEntropy(**options)


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


def test_the_divergence_is_the_mean_of_both_directions():
    p, q = torch.randn(2, 3, 5).log_softmax(-1)
    both = (kl_div(p, q, reduction="none", log_target=True) + kl_div(q, p, reduction="none", log_target=True)).sum(-1)
    torch.testing.assert_close(pass_divergence(torch.cat([p, q])), both / 2)


def test_both_passes_of_a_token_are_dropped_together():
    criterion = LabelSmoothedCrossEntropy(label_smoothing=0.0, rdrop_alpha=1.0, drop_worst_ratio=0.5)
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0], [2.0, 0.0]]).requires_grad_()
    criterion(logits, AllowedIds(2).targets(torch.zeros(4, 1, dtype=torch.long)), 1).sum.backward()
    assert logits.grad.any(-1).tolist() == [True, False, True, False]


def test_two_passes_are_declared_and_an_odd_number_of_rows_is_refused():
    assert [LabelSmoothedCrossEntropy(rdrop_alpha=alpha).passes for alpha in (0.0, 0.5)] == [1, 2]
    targets = AllowedIds(9).targets(torch.tensor([[5, 2]] * 3))
    with pytest.raises(UserError, match="criterion.rdrop_alpha=0.5 .* 3 rows"):
        LabelSmoothedCrossEntropy(rdrop_alpha=0.5)(torch.randn(6, 9), targets, 0)


@pytest.mark.parametrize(
    ("total", "terms"),
    [(torch.ones(2), {"loss": torch.ones(2)}), (torch.ones(()), {}), (torch.ones(()), {"nll": torch.ones(())})],
)
def test_a_loss_that_is_not_a_sum_or_lacks_its_term_is_refused(total, terms):
    with pytest.raises(UserError, match="a Loss needs the sum over the batch and its terms, among them 'loss'"):
        Loss(total, 2, terms)
