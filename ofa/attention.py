"""Multi-head attention with an additive bias and one learned scale per head (NormFormer, arXiv 2110.09456).

Positions enter attention as biases (TUPE, arXiv 2006.15595; buckets as in T5, arXiv 1910.10683, and BEiT, arXiv
2106.08254). Bucket tables are computed for the current size and cached: at full size they would be 50 MB.
"""

from collections.abc import Collection
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """softmax(q k^T / sqrt(scale_factor * d) + bias) v, each head's output times `c_attn`, then `out_proj`.

    Keys and values are projected by `keys_values` and passed in, so that a caller can cache and share them.
    """

    def __init__(self, width: int, heads: int, scale_factor: float, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (scale_factor * (width // heads)) ** -0.5
        self.dropout = dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.c_attn = nn.Parameter(torch.ones(heads))

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, L, d] of source [B, L, D]."""
        return split_heads(self.k_proj(source), self.heads), split_heads(self.v_proj(source), self.heads)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, wanted: Collection[str] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """x [B, T, D], keys and values [B, H, L, d] -> the attended values [B, T, D], and the wanted features by kind.

        Args:
            bias: added to the scores, broadcastable to [B, H, T, L]; minus infinity masks. None adds nothing.
            wanted: kinds of features, see `Feature`; "attention" materialises the probabilities.
        """
        queries = split_heads(self.q_proj(x), self.heads)
        bias = None if bias is None else bias.to(queries.dtype)
        dropout = self.dropout if self.training else 0.0
        features = {"query": queries, "key": keys, "value": values}
        if "attention" in wanted:
            scores = (queries * self.scale) @ keys.transpose(-1, -2)
            scores = scores if bias is None else scores + bias
            attentions = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
            attended = F.dropout(attentions, dropout) @ values
            features["attention"] = attentions
        else:
            attended = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=bias, dropout_p=dropout, scale=self.scale
            )
        return self.project(attended), {kind: features[kind] for kind in wanted}

    def project(self, attended: Tensor) -> Tensor:
        """The last steps of attention: each head's values [B, H, T, d] scaled and mixed to [B, T, D]."""
        return self.out_proj((attended * self.c_attn[:, None, None]).transpose(1, 2).flatten(2))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, L, D] -> [B, H, L, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def position_scores(
    queries: Tensor, keys: Tensor, query_linear: nn.Linear, key_linear: nn.Linear, heads: int, scale_factor: float
) -> Tensor:
    """The absolute part of the position bias, [N, H, T, L], of position vectors [N, T, D] and [N, L, D]."""
    q = split_heads(query_linear(queries), heads)
    k = split_heads(key_linear(keys), heads)
    return (q * (scale_factor * q.shape[-1]) ** -0.5) @ k.transpose(-1, -2)


def relative_scores(table: nn.Embedding, buckets: Tensor) -> Tensor:
    """The relative part of the position bias: buckets [..., T, L] looked up in a table of rows [H]: [..., H, T, L]."""
    return table(buckets).movedim(-1, -3)


def blocking_bias(padding: Tensor) -> Tensor:
    """Padding [B, L], True where keys are ignored -> a bias [B, 1, 1, L] of 0 and minus infinity."""
    zeros = torch.zeros(padding.shape, device=padding.device)
    return zeros.masked_fill_(padding, -torch.inf)[:, None, None, :]


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

    `off_grid` positions outside the grid (the start of an image-code sequence) come first; they have three separate
    buckets after the others: as query, as key, as both.
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
