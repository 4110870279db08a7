"""Label-smoothed cross entropy over the whole vocabulary or an allowed range of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ofa.errors import UserError
from ofa.generation.options import check_constraint_range
from ofa.model import OFAModel
from ofa.vocabulary import PAD


@dataclass
class Loss:
    """A batch's loss: what is minimised is `sum` / `sample_size`; `terms` holds named sums to log, likewise divided."""

    sum: Tensor
    sample_size: int
    terms: dict[str, Tensor]


class LabelSmoothedCrossEntropy:
    """Cross entropy with a share of the probability spread over all allowed ids (arXiv 1512.00567, section 7).

    Args:
        label_smoothing: that share, in [0, 1).
        constraint_range: first id a target may have, beside ids 0..3, and one behind the last; the softmax is taken
            over these alone, and only their logits are computed. None allows the whole vocabulary.
        drop_worst_ratio: share of the tokens with the largest loss that is left out, as they are often mislabelled ...
        drop_worst_after: ... from the update after this one on.
        sentence_average: divide by the number of samples instead of tokens.
    """

    def __init__(
        self,
        label_smoothing: float = 0.1,
        constraint_range: tuple[int, int] | None = None,
        drop_worst_ratio: float = 0.0,
        drop_worst_after: int = 0,
        sentence_average: bool = False,
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise UserError(f"criterion.label_smoothing={label_smoothing} is not in [0, 1)")
        if not 0 <= drop_worst_ratio < 1:
            raise UserError(f"criterion.drop_worst_ratio={drop_worst_ratio} is not in [0, 1)")
        check_constraint_range(constraint_range)
        self.label_smoothing = label_smoothing
        self.constraint_range = constraint_range
        self.drop_worst_ratio = drop_worst_ratio
        self.drop_worst_after = drop_worst_after
        self.sentence_average = sentence_average

    def __call__(self, model: OFAModel, hidden: Tensor, target: Tensor, update: int) -> Loss:
        """The loss of a batch.

        Args:
            model: gives the logits.
            hidden: [B, T, D], the decoder's states.
            target: [B, T], padded with 1; padding has no loss.
            update: the number of optimizer steps already taken.
        """
        valid = target != PAD
        hidden, target = hidden[valid], target[valid]  # [N, D], [N]: no logits are computed for padding
        if self.constraint_range is None:
            logits = model.logits(hidden)
        else:
            first, end = self.constraint_range
            special = torch.arange(4, device=target.device)
            logits = model.logits(hidden, torch.cat([special, torch.arange(first, end, device=target.device)]))
            target = torch.where(target < 4, target, target - first + 4)
        return self.of_logits(logits, target, n_samples=len(valid), update=update)

    def of_logits(self, logits: Tensor, target: Tensor, n_samples: int, update: int) -> Loss:
        """The loss of logits [N, A] over the allowed ids and target [N], as indices into them."""
        loss, nll = label_smoothed_nll(logits, target, self.label_smoothing, self.constraint_range is not None)
        if self.drop_worst_ratio > 0 and update > self.drop_worst_after:
            kept = loss.detach().topk(max(1, int(len(loss) * (1 - self.drop_worst_ratio))), largest=False).indices
            loss, nll = loss[kept], nll[kept]
        return Loss(
            loss.sum(), n_samples if self.sentence_average else len(loss), {"loss": loss.sum(), "nll": nll.sum()}
        )


def label_smoothed_nll(logits: Tensor, target: Tensor, smoothing: float, restricted: bool) -> tuple[Tensor, Tensor]:
    """Smoothed loss [N] and negative log-likelihood [N] of target [N] under logits [N, A], in float32.

    With eps = smoothing / (A - 1): (1 - smoothing - eps) * -log p(target) + eps * sum over A of -log p. Where A is
    `restricted`, the published formula adds 1e-6 to the denominator.
    """
    log_p = torch.log_softmax(logits.float(), -1)
    nll = -log_p.gather(-1, target[:, None])[:, 0]
    eps = smoothing / (logits.shape[-1] - 1 + (1e-6 if restricted else 0))
    return (1 - smoothing - eps) * nll - eps * log_p.sum(-1), nll
