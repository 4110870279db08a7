"""On-policy distillation (GKD, arXiv 2306.13649): a loss on sequences sampled from the student."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from criterions.distillation.logits import LOGIT_LOSSES
from ofa.config import check_choice, check_number

ON_POLICY_LOSSES = ("reverse_kl", "jsd", "ce")


@dataclass(frozen=True)
class OnPolicy:
    """The loss on sequences sampled from the student.

    Attributes:
        weight: of the mean divergence from the teacher over the sampled tokens.
        loss: one of ON_POLICY_LOSSES; at temperature 1.
        temperature: of the sampling.

    Raises:
        UserError: at construction, for invalid values.
    """

    weight: float = 1.0
    loss: str = "reverse_kl"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_number(self.weight, "distill.on_policy.weight", "0 samples nothing")
        check_choice(self.loss, "distill.on_policy.loss", ON_POLICY_LOSSES)
        remedy = "1 samples from the distribution of the student"
        check_number(self.temperature, "distill.on_policy.temperature", remedy, above_zero=True)

    def divergence(self, student: Tensor, teacher: Tensor, allowed: Tensor | None) -> Tensor:
        """The mean over N sampled tokens, of logits [N, A] of which `allowed` [N, A] count; None: all."""
        return LOGIT_LOSSES[self.loss](student, teacher, allowed=allowed).mean()
