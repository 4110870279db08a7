"""Distillation of hidden states [B, L, D].

`mask` [B, L] is True where a position is not padding. Student and teacher have the same width, if necessary by a
projection; only `nst` compares different widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


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
    return squares.masked_fill(~present, 0).sum() / present.sum().clamp(min=1)


def fsp(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Mean squared difference of X1^T X2 / n, [B, D, D], of two layers' states; n positions of a sample are valid.

    The flow of the solution procedure: "A Gift from Knowledge Distillation", CVPR 2017.
    """
    return F.mse_loss(_gram(student, mask), _gram(teacher, mask))


def nst(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Mean squared difference of X1 X2^T / D, [B, L, L], of two layers' states; D may differ.

    Neuron selectivity transfer, maximum mean discrepancy with a polynomial kernel (arXiv 1707.01219).
    """
    products = [_product(x1, x2.transpose(1, 2)) / x1.shape[-1] for x1, x2 in (student, teacher)]
    cells = mask[:, :, None] & mask[:, None]
    return (products[0] - products[1]).square().masked_fill(~cells, 0).sum() / cells.sum()


def _gram(states: Sequence[Tensor], mask: Tensor) -> Tensor:
    first, second = (x.masked_fill(~mask[..., None], 0) for x in states)
    return _product(first.transpose(1, 2), second) / mask.sum(1)[:, None, None]


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product in float32, which autocast would compute in half precision."""
    with torch.autocast(a.device.type, enabled=False):
        return a.float() @ b.float()


def _mean_over(values: Tensor, mask: Tensor) -> Tensor:
    return values.masked_fill(~mask, 0).sum() / mask.sum()
