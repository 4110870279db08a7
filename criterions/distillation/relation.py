"""Distillation of relations between positions in the queries, keys or values of an attention (MiniLM)."""

from __future__ import annotations

import torch
from torch import Tensor

from criterions.base import log_probabilities


def relation_divergence(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL(teacher || student) of softmax(X X^T / sqrt(d)), mean over heads and valid pairs of positions.

    MiniLM (arXiv 2002.10957) for values, MiniLMv2 (arXiv 2012.15828) for queries and keys. The papers sum over the
    second position where the published system averages, as here.

    Args:
        student, teacher: [B, H, L, d], queries, keys or values; d may differ. With different H the heads of each are
            concatenated first.
        mask: [B, L], True where a position is not padding.
    """
    student_log_p, teacher_log_p = (
        _relations(x, mask, joined=student.shape[1] != teacher.shape[1]) for x in (student, teacher)
    )
    divergence = (teacher_log_p.exp() * (teacher_log_p - student_log_p)).sum(-1)  # [B, H or 1, L], 0 at padded keys
    pairs = mask.sum(1).square().sum() * divergence.shape[1]
    return divergence.masked_fill(~mask[:, None], 0).sum() / pairs


def _relations(x: Tensor, mask: Tensor, joined: bool) -> Tensor:
    """Log-softmax over the valid positions, [B, H, L, L], or [B, 1, L, L] of the heads joined; 0 at padding."""
    x = x.float() * x.shape[-1] ** -0.25
    if joined:
        x = x.transpose(1, 2).flatten(2)[:, None]
    with torch.autocast(x.device.type, enabled=False):  # it would round the scores to half precision again
        scores = x @ x.transpose(-1, -2)
    return log_probabilities(scores, mask[:, None, None])
