"""Distillation from the teacher's logits: the loss of each token, of the A ids that it may be.

Whoever calls picks the tokens and ids first, so that nothing of the size of batch x length x vocabulary exists, and
averages last. There is no factor temperature^2: a loss' weight does what it would do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from criterions.label_smoothing import log_probabilities


def ce(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0, allowed: Tensor | None = None) -> Tensor:
    """Cross entropy of softmax(teacher / t) and log-softmax(student / t) (arXiv 1503.02531), [N].

    The published ce_with_mask takes both softmaxes over the whole vocabulary, sums the products over the allowed ids
    and divides by the size of the vocabulary, too: where teacher and student leave nothing to other ids, a weight w
    here equals w * 59457 there.

    Args:
        student, teacher: [N, A] logits; any leading shape instead of N will do, in all functions of this file.
        temperature: t, one number or one for each token, [N].
        allowed: [N, A], which ids the softmaxes are taken over; None: all.
    """
    student_log_p = log_probabilities(heated(student, temperature), allowed)
    teacher_log_p = log_probabilities(heated(teacher, temperature), allowed)
    return -(teacher_log_p.exp() * student_log_p).sum(-1)  # what is not allowed is 0 in the student's


def mse(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0, allowed: Tensor | None = None) -> Tensor:
    """Mean over the allowed ids of the squared difference of the logits / t (arXiv 1312.6184), [N]."""
    squares = (heated(student, temperature) - heated(teacher, temperature)).square()
    return squares.mean(-1) if allowed is None else squares.masked_fill(~allowed, 0).sum(-1) / allowed.sum(-1)


# The first is published under two names, ce where every id is allowed.
LOGIT_LOSSES = {"ce": ce, "ce_with_mask": ce, "mse": mse}


def heated(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Logits [N, A] divided by the temperature, one number or [N], in float32."""
    return logits.float() / (temperature[..., None] if isinstance(temperature, Tensor) else temperature)


def shift_probability(teacher: Tensor, target: Tensor, allowed: Tensor | None = None) -> Tensor:
    """The teacher's logits [N, A], corrected: where its best id is wrong, that logit and the target's are swapped.

    Probability shift, arXiv 1911.07471.

    Args:
        target: [N], as indices into the A ids.
        allowed: [N, A], which ids may be the best; None: all.
    """
    rivals = teacher if allowed is None else teacher.masked_fill(~allowed, -torch.inf)
    best, target = rivals.argmax(-1, keepdim=True), target[..., None]
    of_best, of_target = teacher.gather(-1, best), teacher.gather(-1, target)
    return teacher.scatter(-1, best, of_target).scatter(-1, target, of_best)
