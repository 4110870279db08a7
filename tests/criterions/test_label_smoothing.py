"""Losses and their gradients equal the recorded ones."""

from dataclasses import replace

import pytest
import torch
from helpers.golden import fairseq_images, fill_fairseq, fill_hf, load_arrays, load_json
from helpers.losses import loss_of_states

from criterions.base import AllowedIds
from criterions.label_smoothing import LabelSmoothedCrossEntropy, label_smoothed_nll
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
    assert loss.sample_size == expected["sample_size"]
    assert loss.sum.item() == pytest.approx(expected["loss_sum"], rel=1e-4)
    assert loss.terms["nll"].item() == pytest.approx(expected["nll_sum"], rel=1e-4)
    for name, norm in recorded["grad_norms"][case].items():
        # Gradients of the backbone move by up to 1.2e-3 with the number of threads (tests/goldens/README.md).
        tolerance = 2e-3 if "embed_images" in name else 1e-4
        assert model.get_parameter(name).grad.norm().item() == pytest.approx(norm, rel=tolerance, abs=1e-6), name


# Left out: `plain_accuracy` and `constraint_masks(original code)`, errors of the original; drop_best, which never
# arrived there; and cases of other inputs and models, whose loss is that of `plain`.
FAIRSEQ_OPTIONS = {
    "plain": dict(),
    "plain_text_only": dict(),
    "eps0": dict(label_smoothing=0.0),
    "sentence_avg": dict(sentence_average=True),
    "ignore_eos": dict(),
    "ignore_prefix2": dict(),
    "conf": dict(),
    "constraint_range": dict(constraint_range=BINS),
    "constraint_masks": dict(),
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
    assert loss.sample_size == recorded["sample_size"]
    assert loss.sum.item() == pytest.approx(recorded["loss"], rel=1e-4)
    assert loss.terms["nll"].item() == pytest.approx(recorded["nll_loss"], rel=1e-4)
    renamed = {"encoder_attn": "cross_attn", "attn_ln": "self_attn_mid_layer_norm", "ffn_layernorm": "ffn_layer_norm",
               "cross_attn_ln": "cross_attn_mid_layer_norm"}  # fmt: skip
    for theirs, norm in recorded.get("grad_norms", {}).items():
        name = ".".join(renamed.get(part, part) for part in theirs.split("."))
        grad = brief_model.get_parameter(name).grad
        if norm is None:
            assert grad is None or not grad.any()
        else:
            tolerance = 2e-3 if "embed_images" in name else 1e-4
            assert grad.norm().item() == pytest.approx(norm, rel=tolerance), name


def without_ignored(target, case):
    """Target [B, T], padded where the original ignored it."""
    if "ignore_eos" in case:
        return target.masked_fill(target == 2, 1)
    if "ignore_prefix" in case:
        prefix = int(case[-1])
        return torch.cat([torch.ones_like(target[:, :prefix]), target[:, prefix:]], 1)
    return target


LOGIT_OPTIONS = {
    "plain": dict(),
    "eps0": dict(label_smoothing=0.0),
    "sentence_avg": dict(sentence_average=True),
    "ignore_prefix1": dict(),
    "ignore_eos": dict(),
    "range": dict(constraint_range=(10, 20)),
    "range_ignore_prefix1": dict(constraint_range=(10, 20)),
    "masks": dict(),
    "masks_ignore_eos": dict(),
    "conf": dict(),
    "masks_conf": dict(),
    "drop_worst0.4": dict(drop_worst_ratio=0.4),
    "drop_worst0.4_range": dict(drop_worst_ratio=0.4, constraint_range=(10, 20)),
    "drop_worst_after5": dict(drop_worst_ratio=0.4, drop_worst_after=5),
    "rdrop": dict(rdrop_alpha=1.0),
    "rdrop_alpha3": dict(rdrop_alpha=3.0),
    "rdrop_range": dict(rdrop_alpha=1.0, constraint_range=(10, 20)),
    "rdrop_drop_worst0.4": dict(rdrop_alpha=1.0, drop_worst_ratio=0.4),
    "rdrop_conf": dict(rdrop_alpha=1.0),
}
ENCOURAGING_OPTIONS = LOGIT_OPTIONS | {
    "log_end0.5": dict(encouraging_log_end=0.5),
    "log_end1": dict(encouraging_log_end=1.0),
    "log_end0.5_eps0": dict(encouraging_log_end=0.5, label_smoothing=0.0),
}


def encouraging_cases():
    """Names and steps: at step 0 nothing is dropped yet, from step 1 the original compared unrelated rows."""
    for case in ENCOURAGING_OPTIONS:
        yield case, 0
        if "rdrop" not in case:
            yield case, 1


# Left out everywhere: rdrop_masks, nan in the original.
@pytest.mark.parametrize("case", LOGIT_OPTIONS)
def test_losses_of_given_logits_equal_the_recorded_ones(case):
    check_losses_of_logits(f"label_smoothed/{case}", case, LOGIT_OPTIONS[case], step=1)


@pytest.mark.parametrize(("case", "step"), encouraging_cases())
def test_encouraging_losses_of_given_logits_equal_the_recorded_ones(case, step):
    options = {"encouraging_log_end": 0.75} | ENCOURAGING_OPTIONS[case]
    check_losses_of_logits(f"encouraging/{case}/update_num{step}", case, options, step)


def check_losses_of_logits(name, case, options, step):
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
    assert loss.sum.item() == pytest.approx(recorded["loss"], rel=1e-5)
    assert loss.terms["nll"].item() == pytest.approx(recorded["nll_loss"], rel=1e-5)
    assert loss.sample_size == recorded["sample_size"]
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
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, wanted, reduction="none"))


def loss_of(target_log_p, step=1, weights=None, **options):
    """The Loss of tokens that have these log-probabilities, each with one other id, and the gradients of the logits."""
    log_p = torch.tensor(target_log_p)
    logits = torch.stack([log_p, torch.log1p(-log_p.exp())], 1).requires_grad_()
    criterion = LabelSmoothedCrossEntropy(**({"label_smoothing": 0.0} | options))
    loss = criterion(logits, AllowedIds(2).targets(torch.zeros(len(logits), 1, dtype=torch.long)), step, weights)
    loss.sum.backward()
    return loss, logits.grad


def test_the_best_tokens_are_left_out_of_loss_gradient_and_size():
    loss, gradient = loss_of([-0.3, -4.0, -0.1, -2.0, -1.0], drop_best_ratio=0.4)
    assert loss.sum.item() == pytest.approx(7.0)
    assert loss.terms["nll"].item() == pytest.approx(7.0)
    assert loss.sample_size == 3
    assert gradient.any(-1).tolist() == [False, True, False, True, True]


def test_the_best_and_the_worst_tokens_are_left_out_together():
    loss, gradient = loss_of([-0.3, -4.0, -0.1, -2.0, -1.0], drop_best_ratio=0.4, drop_worst_ratio=0.2)
    assert loss.sum.item() == pytest.approx(3.0)
    assert gradient.any(-1).tolist() == [False, False, False, True, True]


def test_the_best_tokens_are_kept_up_to_the_named_step():
    assert loss_of([-1.0, -2.0], step=5, drop_best_ratio=0.5, drop_best_after=5)[0].sample_size == 2
    assert loss_of([-1.0, -2.0], step=6, drop_best_ratio=0.5, drop_best_after=5)[0].sample_size == 1


@pytest.mark.parametrize("ratio", ["drop_best_ratio", "drop_worst_ratio"])
def test_a_single_token_is_never_dropped(ratio):
    assert loss_of([-1.0], **{ratio: 0.9})[0].sum.item() == pytest.approx(1.0)


def test_weights_scale_loss_nll_and_gradients_of_their_tokens():
    options = dict(label_smoothing=0.2)
    plain, gradient = loss_of([-1.0], **options)
    weighted, weighted_gradient = loss_of([-1.0, -1.0], weights=torch.tensor([0.5, 3.0]), **options)
    assert weighted.sum.item() == pytest.approx(3.5 * plain.sum.item())
    assert weighted.terms["nll"].item() == pytest.approx(3.5)
    assert weighted.sample_size == 2
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
