"""The records of a teacher cache: the logits of a sample as bytes, in half precision.

Letters in shapes: B batch, T target, N target tokens of the batch, n those of one sample, A ids, V vocabulary.

A record holds a float32 number for each token, then log-probabilities in float16, token by token:

- of every allowed id, in the order of the A ids; the number is the log-sum-exp of the logits, so that log-probability +
  number is the logit again. Rounding is relative to the log-probability: smallest for likely ids;
- or of the k best ids of the vocabulary, after the ids as int32; the number is the logarithm of the total probability
  of the other ids, which is spread evenly over them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from criterions.base import Targets, log_probabilities


def pack(logits: Tensor, targets: Targets, top_k: int | None) -> list[bytes]:
    """The records of B samples.

    Args:
        logits: [N, A], the teacher's.
        targets: of the batch.
        top_k: number of ids to store for each token; None: all allowed ids.
    """
    log_p = log_probabilities(logits, targets.allowed)
    if top_k is None:
        columns = [_log_sum_exp(logits, targets.allowed), log_p.half()]
    else:
        best, ids = log_p.topk(top_k)
        columns = [log_p.scatter(-1, ids, -torch.inf).logsumexp(-1), ids.int(), best.half()]
    tokens = targets.valid.sum(1).tolist()
    parts = [column.cpu().split(tokens) for column in columns]
    if targets.allowed is not None:
        allowed = targets.allowed.cpu().split(tokens)
        parts[-1] = [values[may] for values, may in zip(parts[-1], allowed, strict=True)]
    return [b"".join(part.numpy().tobytes() for part in sample) for sample in zip(*parts, strict=True)]


def unpack(records: Sequence[bytes], targets: Targets, top_k: int | None) -> Tensor:
    """Logits [N, A] in float32 from the records of B samples, packed with equal targets and `top_k`.

    They equal those of the teacher up to rounding or, with `top_k`, are log-probabilities of the V ids of the
    vocabulary. Their values at ids that are not allowed are arbitrary.
    """
    device = targets.columns.device
    ends = (4 * targets.valid.sum(1)).tolist()  # of the numbers, in bytes
    numbers = _joined("<f4", [record[:end] for record, end in zip(records, ends, strict=True)], device)
    rest = [record[end:] for record, end in zip(records, ends, strict=True)]
    if top_k is not None:
        ends = [top_k * end for end in ends]
        ids = _joined("<i4", [record[:end] for record, end in zip(rest, ends, strict=True)], device)
        best = _joined("<f2", [record[end:] for record, end in zip(rest, ends, strict=True)], device)
        even = (numbers - math.log(targets.vocabulary_size - top_k))[:, None].expand(-1, targets.vocabulary_size)
        return even.scatter(-1, ids.view(-1, top_k).long(), best.view(-1, top_k).float())
    values = _joined("<f2", rest, device).float()
    if targets.allowed is None:
        return values.view(len(numbers), -1) + numbers[:, None]
    return torch.zeros(targets.allowed.shape, device=device).masked_scatter(targets.allowed, values) + numbers[:, None]


def _log_sum_exp(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """[N], over the allowed of the A ids."""
    logits = logits.float()
    return (logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)).logsumexp(-1)


def _joined(dtype: str, parts: Sequence[bytes], device: torch.device) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytearray().join(parts), dtype)).to(device)
