"""Label-smoothed cross entropy over the allowed ids, with R-Drop and the bonus of the encouraging loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from criterions.base import Criterion, Loss, Targets, log_probabilities
from ofa.errors import UserError

_MIN_REST = 1e-5  # lower bound of 1 - p, below which the gradient of the bonus would leave float32


@dataclass(eq=False)
class LabelSmoothedCrossEntropy(Criterion):
    """Cross entropy with a share of the probability spread over all allowed ids (arXiv 1512.00567, section 7).

    Args:
        label_smoothing: that share, in [0, 1).
        drop_worst_ratio, drop_best_ratio: shares of the tokens that are left out, with the largest loss, as these are
            often mislabelled, and with the smallest, after the steps drop_worst_after and drop_best_after.
        sentence_average: divide by the number of samples instead of tokens.
        rdrop_alpha: weight of the divergence of two dropout passes (R-Drop); above 0 the caller stacks both passes.
        encouraging_log_end: adds the bonus of the encouraging loss, linear above this probability; None: no bonus.

    Raises:
        UserError: at construction, for an impossible value.
    """

    label_smoothing: float = 0.1
    drop_worst_ratio: float = 0.0
    drop_worst_after: int = 0
    sentence_average: bool = False
    rdrop_alpha: float = 0.0
    encouraging_log_end: float | None = None
    drop_best_ratio: float = 0.0
    drop_best_after: int = 0

    def __post_init__(self) -> None:
        for key in ("label_smoothing", "drop_worst_ratio", "drop_best_ratio"):
            if not 0 <= vars(self)[key] < 1:
                raise UserError(f"criterion.{key}={vars(self)[key]} is not in [0, 1)")
        if self.drop_worst_ratio + self.drop_best_ratio >= 1:
            raise UserError(
                f"criterion.drop_worst_ratio={self.drop_worst_ratio} and criterion.drop_best_ratio="
                f"{self.drop_best_ratio} leave no token; their sum must be below 1"
            )
        if self.rdrop_alpha < 0:
            raise UserError(f"criterion.rdrop_alpha={self.rdrop_alpha} is negative; 0 switches R-Drop off")
        end = self.encouraging_log_end
        if end is not None and not 0 < end <= 1:
            raise UserError(f"criterion.encouraging_log_end={end} is not in (0, 1]; null: no bonus")
        self.passes = 2 if self.rdrop_alpha > 0 else 1

    def __call__(self, logits: Tensor, targets: Targets, step: int, weights: Tensor | None = None) -> Loss:
        """The loss of a batch, see `Criterion`; the log-probabilities of a sample are multiplied by its weight.

        Raises:
            UserError: R-Drop with an odd number of rows.
        """
        n_rows, allowed = len(targets.valid), targets.allowed
        if n_rows % self.passes:
            raise UserError(
                f"criterion.rdrop_alpha={self.rdrop_alpha} needs two stacked passes of each sample, and the batch has "
                f"{n_rows} rows"
            )
        log_p = log_probabilities(logits, allowed)
        if weights is not None:
            log_p = log_p * targets.of_tokens(weights)[:, None]
        n_allowed = log_p.shape[-1] if allowed is None else allowed.sum(-1)
        # As published: 1e-6 more where the ids are restricted.
        n_others = n_allowed - 1 + (0 if targets.ids is None and allowed is None else 1e-6)
        loss, nll = label_smoothed_nll(log_p, targets.columns, self.label_smoothing, n_others)
        if self.encouraging_log_end is not None:
            loss = loss + smoothed_bonus(log_p, targets, self.label_smoothing, self.encouraging_log_end)
        divergence = pass_divergence(log_p) if self.passes == 2 else None
        kept = self._kept(loss[: len(loss) // self.passes], step)
        if kept is not None:  # the first pass decides for both passes of a token
            divergence = None if divergence is None else divergence[kept]
            kept = torch.cat([kept + i * (len(loss) // self.passes) for i in range(self.passes)])
            loss, nll = loss[kept], nll[kept]
        terms = {"loss": loss.sum(), "nll": nll.sum()}
        if divergence is not None:
            terms["rdrop"] = divergence.sum()
            terms["loss"] = terms["loss"] + self.rdrop_alpha * terms["rdrop"]
        return Loss(terms["loss"], n_rows if self.sentence_average else len(loss), terms)

    def _kept(self, loss: Tensor, step: int) -> Tensor | None:
        """Ascending indices of the tokens of loss [N] that are not dropped, at least one of several; None: all."""
        n = len(loss)
        worst = self.drop_worst_ratio if step > self.drop_worst_after else 0
        best = self.drop_best_ratio if step > self.drop_best_after else 0
        if not (worst or best):
            return None
        end = max(1, int(n * (1 - worst)))
        start = min(n - int(n * (1 - best)), end - 1)
        return loss.detach().argsort(stable=True)[start:end].sort().values


def label_smoothed_nll(
    log_p: Tensor, target: Tensor, smoothing: float, n_others: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Smoothed loss [N] and negative log-likelihood [N] of target [N] under log-probabilities [N, A].

    With eps = smoothing / n_others: (1 - smoothing - eps) * -log p(target) + eps * sum over A of -log p, which is
    (1 - smoothing) * -log p(target) + eps * sum over the other ids. Computed as the latter: where a single id is
    allowed eps is 1e6 * smoothing, and the result must be 0.
    """
    nll = -log_p.gather(-1, target[:, None])[:, 0]
    others = -log_p.sum(-1) - nll
    return (1 - smoothing) * nll + smoothing / n_others * others, nll


def pass_divergence(log_p: Tensor) -> Tensor:
    """R-Drop (arXiv 2106.14448): (KL(p || q) + KL(q || p)) / 2 of each token, [N / 2].

    log_p [N, A] is p of all tokens of the first pass, then q of the same tokens of the second; 0 where not allowed.
    """
    p, q = log_p.chunk(2)
    return ((p.exp() - q.exp()) * (p - q)).sum(-1) / 2


def encouraging_bonus(p: Tensor, log_end: float) -> Tensor:
    """The bonus of the encouraging loss (arXiv 2110.06537), with which likely tokens keep a larger gradient.

    log(1 - p), of any shape; for p above `log_end`, in (0, 1], the tangent line at `log_end` instead.
    """
    bonus = (1 - p).clamp(min=_MIN_REST).log()
    if log_end == 1:
        return bonus
    tangent = math.log(1 - log_end) - (p - log_end) / (1 - log_end)
    return torch.where(p > log_end, tangent, bonus)


def smoothed_bonus(log_p: Tensor, targets: Targets, smoothing: float, log_end: float) -> Tensor:
    """(1 - smoothing) * bonus(target) + smoothing / V * sum of bonus, [N], of log-probabilities [N, A].

    As published, the sum is over the allowed ids, but the share of each is that of one of all V ids.
    """
    bonus = encouraging_bonus(log_p.exp(), log_end)
    if targets.allowed is not None:
        bonus = bonus.masked_fill(~targets.allowed, 0)
    of_target = bonus.gather(-1, targets.columns[:, None])[:, 0]
    return (1 - smoothing) * of_target + smoothing / targets.vocabulary_size * bonus.sum(-1)
