"""The bonus of the encouraging loss (arXiv 2110.06537): tokens that are already likely keep on being learnt from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MIN_REST = 1e-5  # 1 - p is not taken below this, where the bonus' gradient would leave float32


def encouraging_bonus(p: Tensor, log_end: float) -> Tensor:
    """log(1 - p), of any shape; for p above `log_end` the tangent line at `log_end` instead."""
    bonus = (1 - p).clamp(min=_MIN_REST).log()
    if log_end == 1:
        return bonus
    tangent = math.log(1 - log_end) - (p - log_end) / (1 - log_end)
    return torch.where(p > log_end, tangent, bonus)


def smoothed_bonus(
    log_p: Tensor, target: Tensor, allowed: Tensor | None, smoothing: float, log_end: float, vocabulary_size: int
) -> Tensor:
    """What is added to the loss of each token, [N]: (1 - smoothing) * bonus(target) + smoothing / V * sum of bonus.

    Recorded values of the published implementation have this form: the sum goes over the allowed ids, its share is that
    of one of all V ids of the vocabulary nevertheless.

    Args:
        log_p: [N, A], log-probabilities of the A ids.
        target: [N], as indices into them.
        allowed: [N, A], which of them a token may be; None: all.
        smoothing: the share of probability that label smoothing spreads.
        log_end: where the bonus becomes a line, in (0, 1]; 1 is never.
        vocabulary_size: V.
    """
    bonus = encouraging_bonus(log_p.exp(), log_end)
    if allowed is not None:
        bonus = bonus.masked_fill(~allowed, 0)
    of_target = bonus.gather(-1, target[:, None])[:, 0]
    return (1 - smoothing) * of_target + smoothing / vocabulary_size * bonus.sum(-1)
