"""Padding of token ids: `pad`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ofa.vocabulary import PAD


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of ids as one int64 tensor [B, length of the longest], right-padded with <pad>.

    >>> pad([[0, 5, 2], [0, 2]]).tolist()
    [[0, 5, 2], [0, 2, 1]]
    """
    padded = torch.full((len(rows), max(map(len, rows), default=0)), PAD)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = torch.tensor(row, dtype=torch.int64)
    return padded
