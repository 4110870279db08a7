"""Temperature schedules: one temperature, or a lower one for selected tokens (arXiv 1911.07471)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from criterions.base import log_probabilities
from ofa.config import check_choice, check_number


@dataclass(frozen=True)
class Temperature:
    """A schedule and its settings.

    The temperature of a token is at least a tenth of the base: a large `beta` could make it 0 or negative, where the
    softmax is undefined or inverted.

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
    return _around(base, beta, (1 - F.cosine_similarity(student, teacher, dim=-1)) ** gamma)


def cwsm(student: Tensor, base: float, beta: float, allowed: Tensor | None = None) -> Tensor:
    """base + (mean(w) - w) * beta with w = 1 / (max softmax(student) + 1e-3), [N]: weights by student confidence.

    Of logits as in `flsw`. It may be negative: w is up to the number of ids, which needs a small beta.
    """
    log_p = log_probabilities(student.detach(), allowed)
    if allowed is not None:
        log_p = log_p.masked_fill(~allowed, -torch.inf)
    return _around(base, beta, 1 / (log_p.amax(-1).exp() + 1e-3))


def _around(base: float, beta: float, weight: Tensor) -> Tensor:
    return base + (weight.mean() - weight) * beta
