"""R-Drop (arXiv 2106.14448): agreement of two dropout passes of one batch."""

from __future__ import annotations

from torch import Tensor


def pass_divergence(log_p: Tensor) -> Tensor:
    """(KL(p || q) + KL(q || p)) / 2 of each token, [N / 2].

    Args:
        log_p: [N, A], log-probabilities: p of all tokens of the first pass, then q of the same tokens of the second.
            Ids that are not allowed must be 0 in both; -inf would make inf - inf.
    """
    p, q = log_p.chunk(2)
    return ((p.exp() - q.exp()) * (p - q)).sum(-1) / 2
