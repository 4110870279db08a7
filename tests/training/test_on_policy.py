"""The divergence from the teacher on sampled sequences, on models small enough to compute it by hand."""

from types import SimpleNamespace

import pytest
import torch

from criterions.base import AllowedIds
from criterions.distillation.criterion import DistillationCriterion
from criterions.distillation.logits import OnPolicy
from criterions.label_smoothing import LabelSmoothedCrossEntropy
from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.generation import GenerationOptions, PrefixTree, score_candidates
from ofa.model import OFAModel
from training.distillation.module import DistillationModule
from training.distillation.teacher import Teacher
from training.freezing import Freezing
from training.optim import Optim

CONFIG = OFAConfig.from_name("micro", dropout=0.0, init_std=0.1)
TREE = PrefixTree([[7], [8, 9], [8, 10]])
CLOSE = dict(rtol=1e-4, atol=1e-5)


def make_model(seed, **options):
    torch.manual_seed(seed)
    return OFAModel(OFAConfig.from_name("micro", init_std=0.1, **{"dropout": 0.0, **options}))


def make_module(
    on_policy,
    criterion=None,
    tree=None,
    constraint_range=None,
    kd="ce",
    ce_weight=1.0,
    teachers=(1,),
    seed=5,
    **options,
):
    criterion = DistillationCriterion(
        criterion or LabelSmoothedCrossEntropy(0.1), [], CONFIG, CONFIG, kd=kd, ce_weight=ce_weight
    )
    generation = GenerationOptions(max_len=4, prefix_counts_toward_max_len=False)
    teacher = Teacher([make_model(i) for i in teachers], mean_of=None if kd is None else "probabilities")
    task = SimpleNamespace(processor=SimpleNamespace(tree=tree))
    parts = (make_model(3, **options), task, generation, criterion, Optim(lr=1e-2), Freezing())
    allowed = AllowedIds(CONFIG.vocab_size, constraint_range, tree)
    module = DistillationModule(*parts, teacher=teacher, on_policy=on_policy, seed=seed, allowed=allowed)
    module.total_steps = 10
    return module


def logits(model, batch):
    """[N, V], of the target tokens."""
    with torch.no_grad():
        inputs = (batch.input_ids, batch.patch_images, batch.patch_masks, batch.decoder_input_ids)
        return model.eval()(*inputs).logits[batch.target != 1]


def kl(p, q):
    return (p * (p / q).log()).sum(-1)


def divergence_by_hand(loss, student, teacher):
    """The mean over [N] tokens, of lists of logits of the allowed ids."""
    values = []
    for s, t in zip(student, teacher, strict=True):
        q, p = s.double().softmax(-1), t.double().softmax(-1)
        middle = (p + q) / 2
        values.append({"reverse_kl": kl(q, p), "jsd": (kl(p, middle) + kl(q, middle)) / 2, "ce": -p @ q.log()}[loss])
    return torch.stack(values).mean().float()


@pytest.mark.parametrize("loss", ["reverse_kl", "jsd", "ce"])
@pytest.mark.parametrize("case", ["vocabulary", "range", "tree"])
def test_the_loss_is_the_divergence_on_the_sampled_tokens_as_computed_by_hand(case, loss, batch):
    ids = {"tree": {"tree": TREE}, "range": {"constraint_range": [7, 14]}, "vocabulary": {}}[case]
    module = make_module(OnPolicy(0.5, loss), **ids).eval()
    plain = make_module(None, **ids).eval().loss(batch)
    found = module.loss(batch)

    sampled = module._sampled(batch)
    tokens = sampled.target[sampled.target != 1]
    allowed = [torch.arange(59457)] * len(tokens)
    if case == "range":
        allowed = [torch.tensor([0, 1, 2, 3, *range(7, 14)])] * len(tokens)
        assert set(tokens.tolist()) <= {2, *range(7, 14)}
    if case == "tree":
        answers = [[token for token in row if token != 1] for row in sampled.target.tolist()]
        assert all(answer in ([7, 2], [8, 9, 2], [8, 10, 2]) for answer in answers)
        allowed = [torch.tensor(TREE.next_tokens(a[:i])) for a in answers for i in range(len(a))]
    ours, theirs = (
        [row[ids] for row, ids in zip(logits(model, sampled), allowed, strict=True)]
        for model in (module.model, module.teacher.models[0])
    )
    expected = divergence_by_hand(loss, ours, theirs)
    assert found.terms.keys() == {*plain.terms, "on_policy"} and found.sample_size == 1
    torch.testing.assert_close(found.terms["on_policy"], expected, **CLOSE)
    torch.testing.assert_close(found.sum, plain.sum + 0.5 * expected, **CLOSE)
    assert found.terms["loss"] is found.sum
    for name in ("ce", "kd"):
        torch.testing.assert_close(found.terms[name], plain.terms[name])


@pytest.mark.parametrize("kd", ["ce", None])
def test_several_teachers_give_their_mean_probability(kd, batch):
    module = make_module(OnPolicy(1.0, "ce"), teachers=(1, 2), kd=kd).eval()
    sampled = module._sampled(batch)
    mean = sum(logits(model, sampled).softmax(-1) for model in module.teacher.models) / 2
    expected = -(mean * logits(module.model, sampled).log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(module.loss(batch).terms["on_policy"], expected, **CLOSE)


@pytest.mark.parametrize(("student", "teacher"), [(torch.bfloat16, "16-true"), (torch.float16, "bf16-true")])
def test_student_and_teacher_may_be_of_different_half_precisions(student, teacher, batch):
    module = make_module(OnPolicy(), LabelSmoothedCrossEntropy(0.1, rdrop_alpha=1.0))
    module.teacher = Teacher([make_model(1)], precision=teacher)
    with torch.autocast("cpu", student):
        loss = module.loss(batch)
    assert all(torch.isfinite(term) for term in loss.terms.values())


def test_prompts_stay_before_sampled_tokens(batch):
    sampled = make_module(OnPolicy())._sampled(batch)
    assert sampled.decoder_input_ids[:, :3].tolist()[0] == [0, 11, 12]
    assert sampled.decoder_input_ids[1, :2].tolist() == [0, 13]
    for read, target, n in zip(sampled.decoder_input_ids.tolist(), sampled.target.tolist(), (2, 1), strict=True):
        answer = [token for token in target if token != 1]
        assert target[:n] == [1] * n and answer[-1] == 2 and len(answer) - 1 <= 4
        assert read[1 + n : n + len(answer)] == answer[:-1]
    assert sampled.input_ids is batch.input_ids


def test_a_step_always_samples_the_same_and_another_step_does_not(batch, monkeypatch):
    module = make_module(OnPolicy())
    first = module._sampled(batch).target
    torch.manual_seed(99)
    assert torch.equal(first, make_module(OnPolicy())._sampled(batch).target)
    others = [make_module(OnPolicy(), seed=6)._sampled(batch).target]
    monkeypatch.setattr(DistillationModule, "global_step", 1)
    others.append(module._sampled(batch).target)
    monkeypatch.setattr(DistillationModule, "global_step", 0)
    batch.ids = ["c", "d"]
    others.append(module._sampled(batch).target)
    assert not any(torch.equal(first, other) for other in others)


def modes_of_calls(module, part, monkeypatch):
    """Whether the student is in training mode, at each call of a part of it from now on."""
    modes, forward = [], part.forward

    def noted(*arguments, **more):
        modes.append(module.model.training)
        return forward(*arguments, **more)

    monkeypatch.setattr(part, "forward", noted)
    return modes


def test_the_student_samples_without_dropout_and_is_trained_with_it(batch, monkeypatch):
    module = make_module(OnPolicy(), dropout=0.5).train()
    modes = modes_of_calls(module, module.model.decoder, monkeypatch)
    sampled = [module._sampled(batch).target for _ in range(2)]
    assert torch.equal(*sampled) and module.model.training
    losses = [module.loss(batch).terms["on_policy"].item() for _ in range(2)]
    assert modes == [True] * 4 and losses[0] != losses[1]


def test_gradients_reach_the_student_and_not_the_teacher(batch):
    module = make_module(OnPolicy(), kd=None, ce_weight=0.0).train()
    module.loss(batch).sum.backward()
    assert all(p.grad is None for p in module.teacher.models[0].parameters())
    assert module.model.encoder.layers[0].fc1.weight.grad.any() and module.model.decoder.layers[0].fc1.weight.grad.any()


def test_teacher_and_student_encode_an_image_once_and_the_student_again_to_sample(batch, monkeypatch):
    module = make_module(OnPolicy()).train()
    encoders = module.model.encoder, module.teacher.models[0].encoder
    modes, of_teacher = (modes_of_calls(module, encoder, monkeypatch) for encoder in encoders)
    module.loss(batch)
    assert modes == [False, True] and len(of_teacher) == 1


def test_both_passes_of_rdrop_see_the_same_sequences(batch):
    once = make_module(OnPolicy()).eval().loss(batch)
    twice = make_module(OnPolicy(), LabelSmoothedCrossEntropy(0.1, rdrop_alpha=1.0)).eval().loss(batch)
    torch.testing.assert_close(twice.terms["on_policy"], once.terms["on_policy"], **CLOSE)


def test_gradients_in_mixed_precision_are_those_in_full_precision(batch):
    full, mixed = make_module(OnPolicy(), tree=TREE).train(), make_module(OnPolicy(), tree=TREE).train()
    full.loss(batch).sum.backward()
    with torch.autocast("cpu", torch.bfloat16):
        mixed.loss(batch).sum.backward()
    ours, theirs = (m.model.decoder.layers[0].cross_attn.k_proj.weight.grad.flatten() for m in (mixed, full))
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.95


def test_on_policy_training_brings_the_student_near_its_teacher(batch, monkeypatch):
    module = make_module(OnPolicy(), tree=TREE, kd=None, ce_weight=0.0).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)

    def distance():
        """KL(student || teacher) of whole answers, of which there are three."""
        ours, theirs = (
            score_candidates(model.eval(), batch.inputs, TREE, batch.prefix_tokens)
            for model in (module.model, module.teacher.models[0])
        )
        return kl(ours.exp(), theirs.exp()).mean().item()

    before = distance()
    for step in range(40):
        monkeypatch.setattr(DistillationModule, "global_step", step)
        optimizer.zero_grad()
        module.train().loss(batch).sum.backward()
        optimizer.step()
    assert distance() < 0.1 * before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1}, "distill.on_policy.weight=-1 is not a number of at least 0; 0 samples nothing"),
        ({"loss": "reverse-kl"}, "loss=reverse-kl is not one of reverse_kl, jsd, ce; did you mean 'reverse_kl'"),
        ({"loss": "mse"}, "on_policy.loss=mse is not one of"),
        ({"weight": None}, "distill.on_policy.weight=null is not a number"),
        ({"temperature": 0.0}, "distill.on_policy.temperature=0.0 is not a number above 0"),
        ({"temperature": None}, "distill.on_policy.temperature=null is not a number"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(settings, message):
    with pytest.raises(UserError, match=message):
        OnPolicy(**settings)
