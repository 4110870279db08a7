"""Positions as integers: ids of text tokens and image patches, and the buckets of their relative offsets.

OFA keeps positions out of the residual stream; they enter attention as biases (TUPE, arXiv 2006.15595; the buckets
follow T5, arXiv 1910.10683, and BEiT, arXiv 2106.08254). Bucket tables are computed for the current size
and cached, not stored with the weights: at full size they would be 50 MB.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def patch_position_ids(rows: int, columns: int, grid: int) -> Tensor:
    """Ids of rows x columns patches in reading order, [rows * columns]: row * grid + column + 1; 0: no patch."""
    return (torch.arange(rows)[:, None] * grid + torch.arange(columns) + 1).flatten()


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # a table first made in validation must also serve training
def token_offset_buckets(length: int, bucket_size: int, max_position: int, device: torch.device) -> Tensor:
    """Bucket of the offset i - j for every query i and key j, [length, length], values 0 .. 2 * bucket_size - 2.

    Offsets below half the bucket size have a bucket each; longer ones share buckets that widen logarithmically.
    """
    offset = torch.arange(length)[:, None] - torch.arange(length)
    middle = bucket_size // 2
    distance = torch.where(offset.abs() < middle, middle - 1, offset.abs())
    far = torch.log(distance / middle) / torch.log(torch.tensor((max_position - 1) / middle)) * (middle - 1)
    bucket = torch.where(distance <= middle, offset, offset.sign() * (far.ceil() + middle).long())
    return (bucket + bucket_size - 1).to(device)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def patch_offset_buckets(patches: tuple[int, int], grid: int, device: torch.device, off_grid: int = 0) -> Tensor:
    """Bucket of the two-dimensional offset between every two of rows x columns patches, [L, L] (query, key).

    `off_grid` positions outside the grid (the start of an image-code sequence) come first; their offsets have three
    separate buckets after the others: as query, as key, as both.
    """
    span = 2 * grid - 1
    rows, columns = patches
    row = torch.arange(rows).repeat_interleave(columns)
    column = torch.arange(columns).repeat(rows)
    dy, dx = row[:, None] - row, column[:, None] - column
    length = off_grid + rows * columns
    bucket = torch.empty(length, length, dtype=torch.long)
    bucket[off_grid:, off_grid:] = (dy + grid - 1) * span + dx + grid - 1
    bucket[:off_grid, off_grid:] = span**2
    bucket[off_grid:, :off_grid] = span**2 + 1
    bucket[:off_grid, :off_grid] = span**2 + 2
    return bucket.to(device)
