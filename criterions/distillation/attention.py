"""Distillation of attention maps [B, H, T, L].

`cells` [B, T, L] are the pairs of a query and a key that are not padding; L is T in self-attention.
"""

from __future__ import annotations

import torch
from torch import Tensor


def valid_cells(queries: Tensor, keys: Tensor) -> Tensor:
    """Booleans [B, T, L] of queries [B, T] and keys [B, L], each True where it is not padding."""
    return queries[:, :, None] & keys[:, None]


def attention_mse(student: Tensor, teacher: Tensor, cells: Tensor) -> Tensor:
    """Mean squared difference over the cells of every head (TinyBERT, arXiv 1909.10351)."""
    squares = (student.float() - teacher.float()).square().sum(1)
    return _sum_over(squares, cells) / (cells.sum() * student.shape[1])


def attention_mse_sum(student: Tensor, teacher: Tensor, cells: Tensor) -> Tensor:
    """Mean squared difference over the cells, after a sum over the heads, whose numbers may differ.

    TextBrewer, arXiv 2002.12620.
    """
    # Sums in float32: in half precision the sum over 16 heads is coarser than a small difference.
    difference = student.sum(1, dtype=torch.float32) - teacher.sum(1, dtype=torch.float32)
    return _sum_over(difference.square(), cells) / cells.sum()


def attention_ce(student: Tensor, teacher: Tensor, cells: Tensor) -> Tensor:
    """Cross entropy of the softmax of both maps: sum over the keys, mean over the queries (arXiv 2002.12620).

    The maps are probabilities already; as in the published system a second softmax is taken over all L keys, and the
    sum over the cells only. So padding changes the value slightly.
    """
    terms = -(teacher.float().softmax(-1) * student.float().log_softmax(-1)).sum(1)
    return _sum_over(terms, cells) / (cells.any(-1).sum() * student.shape[1])


def attention_ce_mean(student: Tensor, teacher: Tensor, cells: Tensor) -> Tensor:
    """`attention_ce` of the mean over the heads, whose numbers may differ."""
    return attention_ce(
        student.mean(1, keepdim=True, dtype=torch.float32), teacher.mean(1, keepdim=True, dtype=torch.float32), cells
    )


def _sum_over(values: Tensor, cells: Tensor) -> Tensor:
    return values.masked_fill(~cells, 0).sum()
