"""Multi-head attention with an additive bias and one learned scale per head (NormFormer, arXiv 2110.09456)."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """softmax(q k^T / sqrt(scale_factor * d) + bias) v, each head's output times `c_attn`, then `out_proj`.

    Keys and values are projected by `keys_values` and passed in, so that a caller can cache and share them: queries
    may be the positions of a sequence or the beams of one sample.
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
        """Attend from x [B, T, D] to keys and values [B, H, L, d].

        Args:
            bias: added to the scores, broadcastable to [B, H, T, L]; minus infinity masks. None adds nothing.
            wanted: kinds of features to return, see `Feature`; "attention" materialises the probabilities.

        Returns:
            The attended values [B, T, D], and the wanted features by kind.
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
        attended = attended * self.c_attn[:, None, None]
        return self.out_proj(attended.transpose(1, 2).flatten(2)), {kind: features[kind] for kind in wanted}


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, L, D] -> [B, H, L, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def position_scores(
    queries: Tensor, keys: Tensor, query_linear: nn.Linear, key_linear: nn.Linear, heads: int, scale_factor: float
) -> Tensor:
    """The absolute part of the position bias, [N, H, T, L], of position vectors [N, T, D] and [N, L, D].

    TUPE (arXiv 2006.15595): positions have their own projections, separate from the content.
    """
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
