"""Distillation on logits: the loss of each target token over its A allowed ids, and its temperature.

The caller selects tokens and ids before, and averages after. There is no factor temperature^2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from criterions.base import log_probabilities
from ofa.config import check_choice, check_number


def ce(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0, allowed: Tensor | None = None) -> Tensor:
    """Cross entropy of softmax(teacher / t) and log-softmax(student / t) (arXiv 1503.02531), [N].

    The published ce_with_mask takes both softmaxes over the whole vocabulary, and also divides by its size: where
    teacher and student give no probability to ids that are not allowed, a weight w here equals w * 59457 there.

    Args:
        student, teacher: [N, A] logits; all functions of this file take any leading shape instead of N.
        temperature: t, one number or one for each token, [N].
        allowed: [N, A], which ids the softmaxes are taken over; None: all.
    """
    student_log_p, teacher_log_p = _log_probabilities(student, teacher, temperature, allowed)
    return -(teacher_log_p.exp() * student_log_p).sum(-1)  # 0 in the student's where not allowed


def reverse_kl(
    student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0, allowed: Tensor | None = None
) -> Tensor:
    """KL(softmax(student / t) || softmax(teacher / t)), mode-seeking (MiniLLM, arXiv 2306.08543), [N]."""
    return _kl(*_log_probabilities(student, teacher, temperature, allowed))


def jsd(
    student: Tensor,
    teacher: Tensor,
    temperature: float | Tensor = 1.0,
    allowed: Tensor | None = None,
    beta: float = 0.5,
) -> Tensor:
    """Generalised Jensen-Shannon divergence of softmax(teacher / t), P, and softmax(student / t), Q, [N].

    beta * KL(P || M) + (1 - beta) * KL(Q || M) with M = beta * P + (1 - beta) * Q, beta in (0, 1): between KL(P || Q),
    times beta where that is small, and KL(Q || P), times 1 - beta where that is small (arXiv 2306.13649, section 2).
    """
    student_log_p, teacher_log_p = _log_probabilities(student, teacher, temperature, allowed)
    mixture = torch.logaddexp(teacher_log_p + math.log(beta), student_log_p + math.log(1 - beta))
    if allowed is not None:
        mixture = mixture.masked_fill(~allowed, 0)
    return beta * _kl(teacher_log_p, mixture) + (1 - beta) * _kl(student_log_p, mixture)


def mse(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0, allowed: Tensor | None = None) -> Tensor:
    """Mean over the allowed ids of the squared difference of the logits / t (arXiv 1312.6184), [N]."""
    squares = (_scaled(student, temperature) - _scaled(teacher, temperature)).square()
    return squares.mean(-1) if allowed is None else squares.masked_fill(~allowed, 0).sum(-1) / allowed.sum(-1)


# The first is published under two names: ce, only for the whole vocabulary, and ce_with_mask.
LOGIT_LOSSES = {"ce": ce, "ce_with_mask": ce, "reverse_kl": reverse_kl, "jsd": jsd, "mse": mse}


def _scaled(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Logits [N, A] divided by the temperature, one number or [N], in float32."""
    return logits.float() / (temperature[..., None] if isinstance(temperature, Tensor) else temperature)


def _log_probabilities(
    student: Tensor, teacher: Tensor, temperature: float | Tensor, allowed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's, [N, A] each; 0 where an id is not allowed."""
    return tuple(log_probabilities(_scaled(logits, temperature), allowed) for logits in (student, teacher))


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) [N] of log-probabilities [N, A] that are both 0 where an id is not allowed."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def shift_probability(teacher: Tensor, target: Tensor, allowed: Tensor | None = None) -> Tensor:
    """The teacher's logits [N, A], with that of its best id and the target's swapped where they differ.

    Probability shift, arXiv 1911.07471. target [N] are indices into the A ids; `allowed` [N, A] may be the best.
    """
    rivals = teacher if allowed is None else teacher.masked_fill(~allowed, -torch.inf)
    best, target = rivals.argmax(-1, keepdim=True), target[..., None]
    of_best, of_target = teacher.gather(-1, best), teacher.gather(-1, target)
    return teacher.scatter(-1, best, of_target).scatter(-1, target, of_best)


@dataclass(frozen=True)
class Temperature:
    """A temperature schedule: one temperature, or a lower one for selected tokens (arXiv 1911.07471).

    It is at least a tenth of the base: a large `beta` could make it 0 or negative.

    Attributes:
        schedule: constant, flsw or cwsm.
        base: the temperature of all tokens, or of tokens with the mean weight.
        beta: how far the weight of a token moves its temperature.
        gamma: of flsw, the exponent of the difference of student and teacher.

    Raises:
        UserError: at construction, for invalid values.
    """

    schedule: str = "constant"
    base: float = 1.0
    beta: float = 1.0
    gamma: float = 2.0

    def __post_init__(self) -> None:
        check_choice(self.schedule, "distill.temperature.schedule", ("constant", "flsw", "cwsm"))
        check_number(self.base, "distill.temperature.base", "1 does not change the logits", above_zero=True)
        check_number(self.beta, "distill.temperature.beta", "0 gives every token the base")
        check_number(self.gamma, "distill.temperature.gamma", "2 is the published one")

    def of_tokens(self, student: Tensor, teacher: Tensor, allowed: Tensor | None = None) -> float | Tensor:
        """One number or [N], for logits [N, A] of which `allowed` [N, A] count; None: all."""
        if self.schedule == "constant":
            return self.base
        if self.schedule == "flsw":
            temperature = flsw(student, teacher, self.base, self.beta, self.gamma, allowed)
        else:
            temperature = cwsm(student, self.base, self.beta, allowed)
        return temperature.clamp(min=0.1 * self.base)


def flsw(
    student: Tensor, teacher: Tensor, base: float, beta: float, gamma: float, allowed: Tensor | None = None
) -> Tensor:
    """base + (mean(w) - w) * beta with w = (1 - cos(student, teacher))^gamma, [N]: focal-loss-style weights.

    Of logits before any temperature, as in `Temperature.of_tokens`; no gradient passes.
    """
    student, teacher = student.detach().float(), teacher.detach().float()
    if allowed is not None:
        student, teacher = student.masked_fill(~allowed, 0), teacher.masked_fill(~allowed, 0)
    weight = (1 - F.cosine_similarity(student, teacher, dim=-1)) ** gamma
    return base + (weight.mean() - weight) * beta


def cwsm(student: Tensor, base: float, beta: float, allowed: Tensor | None = None) -> Tensor:
    """base + (mean(w) - w) * beta with w = 1 / (max softmax(student) + 1e-3), [N]: weights by student confidence.

    Of logits as in `flsw`. It may be negative: w is up to the number of ids, which needs a small beta.
    """
    log_p = log_probabilities(student.detach(), allowed)
    if allowed is not None:
        log_p = log_p.masked_fill(~allowed, -torch.inf)
    weight = 1 / (log_p.amax(-1).exp() + 1e-3)
    return base + (weight.mean() - weight) * beta


@dataclass(frozen=True)
class OnPolicy:
    """On-policy distillation (GKD, arXiv 2306.13649): a loss on sequences sampled from the student.

    Attributes:
        weight: of the mean divergence from the teacher over the sampled tokens.
        loss: reverse_kl, jsd or ce; at temperature 1.
        temperature: of the sampling.

    Raises:
        UserError: at construction, for invalid values.
    """

    weight: float = 1.0
    loss: str = "reverse_kl"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_number(self.weight, "distill.on_policy.weight", "0 samples nothing")
        check_choice(self.loss, "distill.on_policy.loss", ("reverse_kl", "jsd", "ce"))
        remedy = "1 samples from the distribution of the student"
        check_number(self.temperature, "distill.on_policy.temperature", remedy, above_zero=True)

    def divergence(self, student: Tensor, teacher: Tensor, allowed: Tensor | None) -> Tensor:
        """The mean over N sampled tokens, of logits [N, A] of which `allowed` [N, A] count; None: all."""
        return LOGIT_LOSSES[self.loss](student, teacher, allowed=allowed).mean()
