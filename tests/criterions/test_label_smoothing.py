"""Losses and their gradients equal the recorded ones."""

import pytest
import torch
from golden import fairseq_images, fill_fairseq, fill_hf, load_arrays, load_json

from criterions.label_smoothing import LabelSmoothedCrossEntropy, label_smoothed_nll
from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.model import OFAModel
from ofa.vocabulary import BINS

HF_OPTIONS = {
    "plain": ("tgt", "prev", dict()),
    "constraint_range": ("btgt", "bprev", dict(constraint_range=BINS)),
    "drop_worst": ("tgt", "prev", dict(drop_worst_ratio=0.3)),
}


def backward(model, criterion, batch, previous, target):
    """The Loss of a batch at update 1, after gradients of sum / sample_size were computed."""
    model.zero_grad()
    hidden = model.decoder(previous, model.encoder(**batch)).last_hidden_state
    loss = criterion(model, hidden, target, update=1)
    (loss.sum / loss.sample_size).backward()
    return loss


@pytest.mark.parametrize("size", ["hf_small", "hf_tiny"])
@pytest.mark.parametrize("case", HF_OPTIONS)
def test_loss_and_gradient_norms_equal_the_published_ones(size, case):
    recorded = load_json(f"{size}.json")
    a = {k: torch.from_numpy(v) for k, v in load_arrays(f"{size}.npz").items()}
    model = OFAModel(OFAConfig.from_dict(recorded["config"])).eval()
    fill_hf(model, recorded["seed"])
    target, previous, options = HF_OPTIONS[case]
    batch = {k: a[f"in/{k}"] for k in ("input_ids", "patch_images", "patch_masks")}
    loss = backward(model, LabelSmoothedCrossEntropy(0.1, **options), batch, a[f"in/{previous}"], a[f"in/{target}"])
    expected = recorded["losses"][case]
    assert loss.sample_size == expected["sample_size"]
    assert loss.sum.item() == pytest.approx(expected["loss_sum"], rel=1e-4)
    assert loss.terms["nll"].item() == pytest.approx(expected["nll_sum"], rel=1e-4)
    for name, norm in recorded["grad_norms"][case].items():
        # Gradients of the backbone move by up to 1.2e-3 with the number of threads (tests/goldens/README.md).
        tolerance = 2e-3 if "embed_images" in name else 1e-4
        assert model.get_parameter(name).grad.norm().item() == pytest.approx(norm, rel=tolerance, abs=1e-6), name


FAIRSEQ_OPTIONS = {
    "plain": dict(),
    "eps0": dict(label_smoothing=0.0),
    "sentence_avg": dict(sentence_average=True),
    "constraint_range": dict(constraint_range=BINS),
    "drop_worst0.3": dict(drop_worst_ratio=0.3, drop_worst_after=0),
    "drop_worst0.3_not_yet": dict(drop_worst_ratio=0.3, drop_worst_after=5),
}


@pytest.fixture(scope="module")
def brief_model():
    model = OFAModel(OFAConfig.from_name("tiny")).eval()
    fill_fairseq(model, "brief")
    return model


@pytest.mark.parametrize("case", [*FAIRSEQ_OPTIONS, "plain_text_only"])
def test_loss_and_gradient_norms_equal_the_original_ones(brief_model, case):
    recorded = load_json("fairseq_forward.json")["losses"][case]
    arrays = load_arrays("fairseq_arrays.npz")
    inputs = {
        k: torch.from_numpy(arrays[f"brief/main/in/{k}"]) for k in ("src_tokens", "patch_masks", "patch_images_8")
    }
    batch = {"input_ids": inputs["src_tokens"].long()}
    if case == "plain_text_only":
        name = "brief/text/in/"
        batch = {"input_ids": torch.from_numpy(arrays[name + "src_tokens"]).long()}
        target = torch.from_numpy(arrays[name + "target"]).long()
    else:
        batch |= {"patch_images": fairseq_images("main", inputs), "patch_masks": inputs["patch_masks"]}
        key = "in/box_target" if case == "constraint_range" else "brief/main/in/target"
        target = torch.from_numpy(arrays[key]).long()
    previous = torch.cat([torch.zeros_like(target[:, :1]), target[:, :-1]], 1).masked_fill(target == 1, 1)
    criterion = LabelSmoothedCrossEntropy(**({"label_smoothing": 0.1} | FAIRSEQ_OPTIONS.get(case, {})))
    loss = backward(brief_model, criterion, batch, previous, target)
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


LOGIT_OPTIONS = {
    "plain": dict(),
    "eps0": dict(label_smoothing=0.0),
    "sentence_avg": dict(sentence_average=True),
    "range": dict(constraint_range=(10, 20)),
    "drop_worst0.4": dict(drop_worst_ratio=0.4),
    "drop_worst0.4_range": dict(drop_worst_ratio=0.4, constraint_range=(10, 20)),
    "drop_worst_after5": dict(drop_worst_ratio=0.4, drop_worst_after=5),
}


@pytest.mark.parametrize("case", LOGIT_OPTIONS)
def test_losses_of_given_logits_equal_the_recorded_ones(case):
    recorded = load_json("fairseq_forward.json")["criterions_on_logits"]["results"][f"label_smoothed/{case}"]
    arrays = load_arrays("fairseq_arrays.npz")
    whole = torch.from_numpy(arrays["crit/logits_a"]).requires_grad_()
    target = torch.from_numpy(arrays["crit/target"]).long()
    criterion = LabelSmoothedCrossEntropy(**({"label_smoothing": 0.1} | LOGIT_OPTIONS[case]))
    valid = target != 1
    logits, valid_target = whole[valid], target[valid]
    if criterion.constraint_range:
        logits = torch.cat([logits[:, :4], logits[:, 10:20]], -1)
        valid_target = torch.where(valid_target < 4, valid_target, valid_target - 6)
    loss = criterion.of_logits(logits, valid_target, len(target), update=1)
    assert loss.sum.item() == pytest.approx(recorded["loss"], rel=1e-5)
    assert loss.terms["nll"].item() == pytest.approx(recorded["nll_loss"], rel=1e-5)
    assert loss.sample_size == recorded["sample_size"]
    loss.sum.backward()
    key = f"crit/grad_a/label_smoothed/{case}"
    if key in arrays:
        torch.testing.assert_close(whole.grad, torch.from_numpy(arrays[key]), rtol=1e-4, atol=1e-6)


def test_smoothing_of_one_half_leans_half_way_to_the_uniform_distribution():
    logits = torch.randn(5, 7)
    target = torch.tensor([0, 1, 2, 3, 4])
    loss, _ = label_smoothed_nll(logits, target, 0.5, restricted=False)
    wanted = torch.full((5, 7), 0.5 / 6)
    wanted[range(5), target] = 0.5
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, wanted, reduction="none"))


def test_an_impossible_smoothing_is_refused_by_name():
    with pytest.raises(UserError, match="criterion.label_smoothing=1.5"):
        LabelSmoothedCrossEntropy(label_smoothing=1.5)
