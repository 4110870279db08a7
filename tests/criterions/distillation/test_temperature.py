"""The temperature schedules equal the recorded ones."""

import pytest
import torch
from helpers.golden import load_tensors

from criterions.distillation.temperature import Temperature, cwsm, flsw
from ofa.errors import UserError

INPUTS = load_tensors("kd.npz")
STUDENT, TEACHER = INPUTS["logits_student"], INPUTS["logits_teacher"]


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
