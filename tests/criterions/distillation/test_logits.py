"""Losses on logits, temperatures and the probability shift equal the recorded ones."""

import pytest
import torch
from helpers.golden import load_json, load_tensors

from criterions.distillation.logits import Temperature, ce, cwsm, flsw, jsd, mse, reverse_kl, shift_probability
from ofa.errors import UserError
from ofa.vocabulary import PAD

RECORDED = load_json("kd.json")
INPUTS = load_tensors("kd.npz")
STUDENT, TEACHER, TARGET = INPUTS["logits_student"], INPUTS["logits_teacher"], INPUTS["target"]
VALID = TARGET != PAD
VOCABULARY_SIZE = STUDENT.shape[-1]


@pytest.mark.parametrize("temperature", [1, 4])
def test_ce_and_mse_equal_the_recorded_ones(temperature):
    losses = ce(STUDENT, TEACHER, temperature), mse(STUDENT, TEACHER, temperature)
    assert losses[0].mean().item() == pytest.approx(RECORDED[f"kd_ce_T{temperature}"], abs=1e-5)
    assert losses[1].mean().item() == pytest.approx(RECORDED[f"kd_mse_T{temperature}"], abs=1e-5)


@pytest.mark.parametrize("temperature", [1, 4])
@pytest.mark.parametrize("case", ["pad1", "range_20_36", "constraint_mask"])
def test_ce_with_mask_equals_the_recorded_ones(case, temperature):
    student, teacher = STUDENT[VALID], TEACHER[VALID]  # [N, V]
    if case == "constraint_mask":
        allowed = INPUTS["constraint_mask"][VALID]
        loss = ce(student, teacher, temperature, allowed)
    else:
        allowed = torch.ones_like(student).bool()
        if case == "range_20_36":
            allowed[:, 4:20] = allowed[:, 36:] = False
        ids = allowed[0].nonzero()[:, 0]
        loss = ce(student[:, ids], teacher[:, ids], temperature)
    # The published loss keeps what the softmax over the whole vocabulary leaves to the allowed ids: with this share
    # m of student and teacher, and p over the allowed ids, a term of its sum is m_T p_T * (log m_S + log p_S).
    scaled = (student / temperature, teacher / temperature)
    log_share = [x.masked_fill(~allowed, -torch.inf).logsumexp(-1) - x.logsumexp(-1) for x in scaled]
    published = log_share[1].exp() * (loss - log_share[0]) / VOCABULARY_SIZE
    recorded = RECORDED[f"kd_ce_with_mask_{case}_T{temperature}"]
    assert published.mean().item() == pytest.approx(recorded, abs=1e-5, rel=1e-5)


def skewed_jsd(*arguments):
    return jsd(*arguments, beta=0.1)


@pytest.mark.parametrize("divergence", [ce, reverse_kl, jsd, skewed_jsd, mse])
def test_what_is_not_allowed_has_no_influence_and_no_gradient(divergence):
    allowed = INPUTS["constraint_mask"][VALID]
    student = STUDENT[VALID].requires_grad_()
    loss = divergence(student, TEACHER[VALID], 2.0, allowed)
    loss.sum().backward()
    assert not student.grad[~allowed].any() and student.grad[allowed].any()
    one = allowed[0].nonzero()[:, 0]
    torch.testing.assert_close(loss[0], divergence(student[0, one], TEACHER[VALID][0, one], 2.0))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_reverse_kl_and_jsd_equal_their_formulas(temperature):
    q, p = ((logits[VALID].double() / temperature).softmax(-1) for logits in (STUDENT, TEACHER))

    def kl(a, b):
        return (a * (a / b).log()).sum(-1).float()

    torch.testing.assert_close(reverse_kl(STUDENT[VALID], TEACHER[VALID], temperature), kl(q, p), rtol=1e-4, atol=1e-5)
    for beta in (0.1, 0.5, 0.9):
        mixture = beta * p + (1 - beta) * q
        expected = beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)
        found = jsd(STUDENT[VALID], TEACHER[VALID], temperature, beta=beta)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_jsd_is_symmetric_bounded_and_between_the_two_divergences():
    student, teacher = STUDENT[VALID].double(), TEACHER[VALID].double()
    torch.testing.assert_close(jsd(student, teacher), jsd(teacher, student))
    far = torch.tensor([[1e4, 0.0, 0.0], [0.0, 1e4, 0.0]])
    torch.testing.assert_close(jsd(far, far.flip(0)), torch.full((2,), 2.0).log())
    assert (jsd(student, teacher) < torch.tensor(2.0).log()).all()
    student, teacher = student / 8, teacher / 8  # likelier, that float32 may divide by a small beta
    near_p, near_q = jsd(student, teacher, beta=1e-3) / 1e-3, jsd(student, teacher, beta=1 - 1e-3) / 1e-3
    torch.testing.assert_close(near_p, reverse_kl(teacher, student), rtol=0.02, atol=1e-3)
    torch.testing.assert_close(near_q, reverse_kl(student, teacher), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("divergence", [ce, reverse_kl, jsd])
def test_where_a_probability_underflows_the_gradient_is_finite(divergence):
    teacher = torch.tensor([[500.0, 0.0, -500.0, 9.0], [-500.0, 500.0, 0.0, 9.0], [3.0, 2.0, 1.0, 9.0]])
    allowed = torch.tensor([[True, True, True, False]] * 2 + [[False, True, False, False]])
    student = teacher.flip(1).contiguous().requires_grad_()
    loss = divergence(student, teacher, 1.0, allowed)
    loss.sum().backward()
    assert loss.isfinite().all() and student.grad.isfinite().all() and loss[2] == 0


def test_a_student_that_equals_its_teacher_has_no_gradient():
    student = TEACHER[VALID].clone().requires_grad_()
    divergences = [ce(student, TEACHER[VALID], 3.0), *(f(student, TEACHER[VALID]) for f in (mse, reverse_kl, jsd))]
    torch.cat(divergences).sum().backward()
    assert all(d.abs().max() < 1e-5 for d in divergences[1:])
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_compared_in_float32(dtype):
    loss = ce(STUDENT.to(dtype), TEACHER.to(dtype))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ce(STUDENT.to(dtype).float(), TEACHER.to(dtype).float()))


@pytest.mark.parametrize(
    ("name", "temperature"), [("flsw", flsw(STUDENT, TEACHER, 4.0, 1.0, 2.0)), ("cwsm", cwsm(STUDENT, 4.0, 1.0))]
)
def test_ce_with_a_temperature_for_each_token_equals_the_recorded_one(name, temperature):
    assert ce(STUDENT, TEACHER, temperature).mean().item() == pytest.approx(RECORDED[f"kd_ce_{name}"], abs=1e-5)


def test_the_shifted_logits_equal_the_recorded_ones():
    torch.testing.assert_close(shift_probability(TEACHER, TARGET), INPUTS["probability_shift"], atol=0, rtol=0)


def test_an_id_that_is_not_allowed_is_no_rival_of_the_target():
    teacher = torch.tensor([[9.0, 1.0, 3.0]])
    allowed = torch.tensor([[False, True, True]])
    assert shift_probability(teacher, torch.tensor([2]), allowed).tolist() == teacher.tolist()
    assert shift_probability(teacher, torch.tensor([1]), allowed).tolist() == [[9.0, 3.0, 1.0]]


def test_temperatures_equal_the_recorded_ones_and_pass_no_gradient():
    student = STUDENT.clone().requires_grad_()
    recorded = {"flsw_beta1_gamma2_T4": flsw(student, TEACHER, 4.0, 1.0, 2.0), "cwsm_beta1_T4": cwsm(student, 4.0, 1.0)}
    for case, temperature in recorded.items():
        torch.testing.assert_close(temperature, INPUTS[case], atol=1e-5, rtol=0)
        assert not temperature.requires_grad


def test_tokens_that_differ_have_a_sharper_teacher():
    agreed, opposed = flsw(torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, -1.0]]), base=4.0, beta=0.5, gamma=1.0)
    assert (agreed.item(), opposed.item()) == (4.5, 3.5)


def test_tokens_the_student_is_sure_of_have_a_softer_teacher():
    sure, unsure = cwsm(torch.tensor([[9.0, 0.0], [0.0, 0.0]]), base=4.0, beta=1.0)
    assert sure > 4 > unsure


@pytest.mark.parametrize("schedule", ["flsw", "cwsm"])
def test_ids_that_are_not_allowed_do_not_count(schedule):
    temperature = Temperature(schedule, base=4.0, beta=0.5)
    allowed = torch.ones_like(STUDENT).bool()
    allowed[..., 10:] = False
    restricted = temperature.of_tokens(STUDENT[..., :10], TEACHER[..., :10])
    torch.testing.assert_close(temperature.of_tokens(STUDENT, TEACHER, allowed), restricted)


@pytest.mark.parametrize("n_ids", [2, 1004])
def test_no_token_has_a_temperature_that_teaches_the_opposite(n_ids):
    torch.manual_seed(0)
    student = torch.cat([torch.zeros(1, n_ids), 20 * torch.eye(n_ids)[:1]])  # knows nothing, is sure
    assert cwsm(student, base=0.2, beta=1.0).min() < 0
    unsure, sure = Temperature("cwsm", base=0.2).of_tokens(student, student)
    assert unsure.item() == pytest.approx(0.02) and sure > 0.2
    teacher = student * torch.tensor([[1.0], [-1.0]])
    opposed, agreed = Temperature("flsw", base=0.2).of_tokens(student, teacher).sort()[0]
    assert opposed.item() == pytest.approx(0.02) and agreed > 0.2


def test_a_constant_temperature_is_a_number():
    assert Temperature(base=2.0).of_tokens(STUDENT, TEACHER) == 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(schedule="fslw"), "schedule=fslw .* did you mean 'flsw'"),
        (dict(schedule=None), "schedule=null is not one of"),
        (dict(base=0.0), "base=0.0 is not a number above 0"),
        (dict(base=None), "base=null is not a number above 0"),
        (dict(beta=None), "beta=null is not a number of at least 0"),
        (dict(beta=[1]), r"beta=\[1\] is not a number"),
        (dict(gamma=-1.0), "gamma=-1.0 is not a number of at least 0"),
        (dict(gamma=float("nan")), "gamma=nan is not a number"),
    ],
)
def test_impossible_options_are_refused_by_name(options, message):
    with pytest.raises(UserError, match=message):
        Temperature(**options)
