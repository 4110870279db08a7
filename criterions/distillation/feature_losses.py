"""Losses on intermediate features by name, and the requirements of each.

Attention maps are [B, H, T, L]; their mask is the cells [B, T, L], the pairs of a query and a key that are not padding,
with L = T in self-attention. Hidden states are [B, L, D], queries, keys and values [B, H, L, D / H]; their mask [B, L]
is True where a position is not padding. Only `nst` compares hidden states of different widths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from criterions.base import log_probabilities


def valid_cells(queries: Tensor, keys: Tensor) -> Tensor:
    """Booleans [B, T, L] of queries [B, T] and keys [B, L], each True where it is not padding."""
    return queries[:, :, None] & keys[:, None]


def attention_mse(student: Tensor, teacher: Tensor, cells: Tensor) -> Tensor:
    """Mean squared difference over the cells of every head (TinyBERT, arXiv 1909.10351)."""
    squares = (student.float() - teacher.float()).square().sum(1)
    return _sum_over(squares, cells) / (cells.sum() * student.shape[1])


def attention_mse_sum(student: Tensor, teacher: Tensor, cells: Tensor) -> Tensor:
    """Mean squared difference of the sums over the heads, whose numbers may differ (TextBrewer, arXiv 2002.12620)."""
    # Sums in float32: in half precision the sum over 16 heads is coarser than a small difference.
    difference = student.sum(1, dtype=torch.float32) - teacher.sum(1, dtype=torch.float32)
    return _mean_over(difference.square(), cells)


def attention_ce(student: Tensor, teacher: Tensor, cells: Tensor) -> Tensor:
    """Cross entropy of the softmax of both maps: sum over the keys, mean over the queries (arXiv 2002.12620).

    As published, this second softmax is over all L keys, the sum over the cells only: padding changes the value.
    """
    terms = -(teacher.float().softmax(-1) * student.float().log_softmax(-1)).sum(1)
    return _sum_over(terms, cells) / (cells.any(-1).sum() * student.shape[1])


def attention_ce_mean(student: Tensor, teacher: Tensor, cells: Tensor) -> Tensor:
    """`attention_ce` of the mean over the heads, whose numbers may differ."""
    return attention_ce(*(x.mean(1, keepdim=True, dtype=torch.float32) for x in (student, teacher)), cells)


def _sum_over(values: Tensor, mask: Tensor) -> Tensor:
    return values.masked_fill(~mask, 0).sum()


def _mean_over(values: Tensor, mask: Tensor) -> Tensor:
    return _sum_over(values, mask) / mask.sum()


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference (TinyBERT, arXiv 1909.10351)."""
    return _mean_over((student.float() - teacher.float()).square().mean(-1), mask)


def cos(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean of 1 - cosine similarity (DistilBERT, arXiv 1910.01108)."""
    return _mean_over(1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1), mask)


def pkd(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Squared distance of the two normalised vectors at position 0 (patient distillation, arXiv 1908.09355).

    Mean over the samples that have a position 0: an encoder's is an image patch, and a sample may be without image.
    """
    first, first_of_teacher = (F.normalize(x[:, 0].float(), dim=-1) for x in (student, teacher))
    present = mask[:, 0]
    squares = (first - first_of_teacher).square().sum(-1)
    return _sum_over(squares, present) / present.sum().clamp(min=1)


def fsp(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Mean squared difference of X1^T X2 / n, [B, D, D], of two layers' states; n positions of a sample are valid.

    The flow of the solution procedure: "A Gift from Knowledge Distillation", CVPR 2017.
    """
    padding, n = ~mask[..., None], mask.sum(1)[:, None, None]
    x1_x2 = ([x.masked_fill(padding, 0) for x in states] for states in (student, teacher))
    return F.mse_loss(*(_product(x1.transpose(1, 2), x2) / n for x1, x2 in x1_x2))


def nst(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Mean squared difference of X1 X2^T / D, [B, L, L], of two layers' states; D may differ.

    Neuron selectivity transfer, maximum mean discrepancy with a polynomial kernel (arXiv 1707.01219).
    """
    products = [_product(x1, x2.transpose(1, 2)) / x1.shape[-1] for x1, x2 in (student, teacher)]
    return _mean_over((products[0] - products[1]).square(), valid_cells(mask, mask))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product in float32, which autocast would compute in half precision."""
    with torch.autocast(a.device.type, enabled=False):
        return a.float() @ b.float()


def relation_divergence(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL(teacher || student) of softmax(X X^T / sqrt(d)), mean over heads and valid pairs of positions.

    Of queries, keys or values [B, H, L, d]; d may differ. With different H the heads of each are concatenated first.
    MiniLM (arXiv 2002.10957) for values, MiniLMv2 (arXiv 2012.15828) for queries and keys. The papers sum over the
    second position where the published system averages, as here.
    """
    student_log_p, teacher_log_p = (
        _relations(x, mask, joined=student.shape[1] != teacher.shape[1]) for x in (student, teacher)
    )
    divergence = (teacher_log_p.exp() * (teacher_log_p - student_log_p)).sum(-1)  # [B, H or 1, L], 0 at padded keys
    return _sum_over(divergence, mask[:, None]) / (_pairs(mask) * divergence.shape[1])


def _relations(x: Tensor, mask: Tensor, joined: bool) -> Tensor:
    """Log-softmax over the valid positions, [B, H, L, L], or [B, 1, L, L] of the heads joined; 0 at padding."""
    x = x.float() * x.shape[-1] ** -0.25
    if joined:
        x = x.transpose(1, 2).flatten(2)[:, None]
    return log_probabilities(_product(x, x.transpose(-1, -2)), mask[:, None, None])


@dataclass(frozen=True)
class FeatureLoss:
    """A function of (student, teacher, mask).

    Attributes:
        function: the loss.
        size: number of elements that the loss is a mean over, from the mask, up to a constant factor.
        feature: what it compares: attention, hidden, query, key or value.
        equal_heads: it compares head by head.
        equal_width: it compares channel by channel, so that a student of another width needs a projection.
        of_two_layers: it takes the states of two layers of each model, as a sequence.
    """

    function: Callable[[Any, Any, Tensor], Tensor]
    size: Callable[[Tensor], Tensor | int]
    feature: str
    equal_heads: bool = False
    equal_width: bool = False
    of_two_layers: bool = False

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
        """The loss of the features of one pair of layers, or of two; the mask as above."""
        return self.function(*((student, teacher) if self.of_two_layers else (student[0], teacher[0])), mask)


# Numbers of elements, from the mask.
def _queries(cells: Tensor) -> Tensor:
    return cells.any(-1).sum()


def _pairs(mask: Tensor) -> Tensor:
    return mask.sum(1).square().sum()


FEATURE_LOSSES = {
    "attention_mse": FeatureLoss(attention_mse, Tensor.sum, "attention", equal_heads=True),
    "attention_mse_sum": FeatureLoss(attention_mse_sum, Tensor.sum, "attention"),
    "attention_ce": FeatureLoss(attention_ce, _queries, "attention", equal_heads=True),
    "attention_ce_mean": FeatureLoss(attention_ce_mean, _queries, "attention"),
    "hidden_mse": FeatureLoss(hidden_mse, Tensor.sum, "hidden", equal_width=True),
    "cos": FeatureLoss(cos, Tensor.sum, "hidden", equal_width=True),
    "pkd": FeatureLoss(pkd, lambda mask: mask[:, 0].sum(), "hidden", equal_width=True),
    "fsp": FeatureLoss(fsp, len, "hidden", equal_width=True, of_two_layers=True),
    "nst": FeatureLoss(nst, _pairs, "hidden", of_two_layers=True),
    **{f"{name}_relation": FeatureLoss(relation_divergence, _pairs, name) for name in ("query", "key", "value")},
}
