"""The temperature of each token: one for all, or lower for tokens that deserve a sharper teacher (arXiv 1911.07471)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from criterions.label_smoothing import log_probabilities
from ofa.config import did_you_mean
from ofa.errors import UserError

SCHEDULES = ("constant", "flsw", "cwsm")


@dataclass(frozen=True)
class Temperature:
    """Which schedule, and its settings.

    Attributes:
        schedule: constant, flsw or cwsm.
        base: the temperature of all tokens, or of those with the mean weight.
        beta: how far a token's weight moves its temperature.
        gamma: of flsw, how much more tokens weigh on which student and teacher differ.

    Raises:
        UserError: at construction, for values that no schedule has.
    """

    schedule: str = "constant"
    base: float = 1.0
    beta: float = 1.0
    gamma: float = 2.0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise UserError(
                f"distill.temperature.schedule={self.schedule} is not one of {', '.join(SCHEDULES)}"
                f"{did_you_mean(self.schedule, SCHEDULES)}"
            )
        if self.base <= 0:
            raise UserError(f"distill.temperature.base={self.base} is not above 0; 1 leaves the logits as they are")

    def of_tokens(self, student: Tensor, teacher: Tensor, allowed: Tensor | None = None) -> float | Tensor:
        """One number or [N], for logits [N, A] of which `allowed` [N, A] count; None: all."""
        if self.schedule == "flsw":
            return flsw(student, teacher, self.base, self.beta, self.gamma, allowed)
        if self.schedule == "cwsm":
            return cwsm(student, self.base, self.beta, allowed)
        return self.base


def flsw(
    student: Tensor, teacher: Tensor, base: float, beta: float, gamma: float, allowed: Tensor | None = None
) -> Tensor:
    """base + (mean(w) - w) * beta with w = (1 - cos(student, teacher))^gamma, [N]: focal-loss-style weights.

    Args:
        student, teacher: [N, A] logits, before any temperature; no gradient passes.
        allowed: [N, A], which ids count; None: all.
    """
    student, teacher = student.detach().float(), teacher.detach().float()
    if allowed is not None:
        student, teacher = student.masked_fill(~allowed, 0), teacher.masked_fill(~allowed, 0)
    return _around(base, beta, (1 - F.cosine_similarity(student, teacher, dim=-1)) ** gamma)


def cwsm(student: Tensor, base: float, beta: float, allowed: Tensor | None = None) -> Tensor:
    """base + (mean(w) - w) * beta with w = 1 / (max softmax(student) + 1e-3), [N]: weights by the student's confidence.

    Nothing keeps it positive: w is up to the number of ids, which a beta for a large vocabulary has to make up for.

    Args:
        student: [N, A] logits, before any temperature; no gradient passes.
        allowed: [N, A], which ids count; None: all.
    """
    log_p = log_probabilities(student.detach(), allowed)
    if allowed is not None:
        log_p = log_p.masked_fill(~allowed, -torch.inf)
    return _around(base, beta, 1 / (log_p.amax(-1).exp() + 1e-3))


def _around(base: float, beta: float, weight: Tensor) -> Tensor:
    return base + (weight.mean() - weight) * beta
