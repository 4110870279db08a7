"""The bonus of the encouraging loss (arXiv 2110.06537): likely tokens keep a larger gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from criterions.base import Targets

_MIN_REST = 1e-5  # lower bound of 1 - p, below which the gradient of the bonus would leave float32


def encouraging_bonus(p: Tensor, log_end: float) -> Tensor:
    """log(1 - p), of any shape; for p above `log_end` the tangent line at `log_end` instead."""
    bonus = (1 - p).clamp(min=_MIN_REST).log()
    if log_end == 1:
        return bonus
    tangent = math.log(1 - log_end) - (p - log_end) / (1 - log_end)
    return torch.where(p > log_end, tangent, bonus)


def smoothed_bonus(log_p: Tensor, targets: Targets, smoothing: float, log_end: float) -> Tensor:
    """The bonus of each token, [N]: (1 - smoothing) * bonus(target) + smoothing / V * sum of bonus.

    Recorded values of the published implementation have this form: the sum is over the allowed ids, and the share of
    each is nevertheless that of one of all V ids of the vocabulary.

    Args:
        log_p: [N, A], log-probabilities of the A ids.
        targets: the N tokens.
        smoothing: the share of probability that label smoothing spreads.
        log_end: where the bonus becomes linear, in (0, 1]; 1: never.
    """
    bonus = encouraging_bonus(log_p.exp(), log_end)
    if targets.allowed is not None:
        bonus = bonus.masked_fill(~targets.allowed, 0)
    of_target = bonus.gather(-1, targets.columns[:, None])[:, 0]
    return (1 - smoothing) * of_target + smoothing / targets.vocabulary_size * bonus.sum(-1)
