"""Decoder pass over a whole prefix tree.

Each row of the tree is a query that sees its sample's prompt, its ancestors and itself, never the other rows. Positions
follow the depth, so the rows of one level of one sample share their position biases.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ofa.attention import Attention, split_heads
from ofa.decoder import Decoder, DecoderLayer
from ofa.encoder import EncoderOutput
from ofa.generation.prefix_tree import PrefixTree
from ofa.vocabulary import PAD


def decode_tree(decoder: Decoder, encoder_output: EncoderOutput, tree: PrefixTree, prompt: Tensor) -> Tensor:
    """States of the tree's root and its R rows, [B, 1 + R, D], after the final norm.

    Args:
        decoder: in evaluation mode.
        encoder_output: of B samples.
        tree: on their device.
        prompt: [B, P], `<s>` and what each sample's answer follows, right-padded with 1.
    """
    samples, n_prompt = prompt.shape
    ends = (prompt != PAD).sum(1) - 1
    levels = _levels(tree, n_prompt, ends)
    ids = torch.cat([prompt, tree.tokens[tree.columns[tree.rows]].expand(samples, -1)], 1)
    x = decoder.embed(ids, None)
    self_biases, cross_bias = decoder.position_biases(n_prompt + len(levels), encoder_output, None)
    every = torch.arange(samples, device=prompt.device)
    cross_biases = [cross_bias[:, :, :n_prompt], *(cross_bias[every, :, level.positions, None] for level in levels)]
    blocks = [slice(0, n_prompt), *(level.rows for level in levels)]
    for layer, self_bias in zip(decoder.layers, self_biases, strict=True):
        x = _attend_self(x, layer, self_bias, n_prompt, levels)
        source = layer.cross_attn.keys_values(encoder_output.last_hidden_state)
        attended = [
            layer.attend_source(x[:, block], *source, bias)[0] for block, bias in zip(blocks, cross_biases, strict=True)
        ]
        x = layer.feed_forward(torch.cat(attended, 1))
    x = decoder.layer_norm(x)
    return torch.cat([x[every, ends, None], x[:, n_prompt:]], 1)


@dataclass
class _Level:
    """The n rows of depth d, which follow the P of the prompt, and the P + d keys that each of them sees.

    rows: their range.
    ancestors: [n, d], the rows each of them sees besides the prompt.
    positions: [B], where they stand in each sample.
    key_positions: [B, P + d], where the keys stand.
    key_padding: [B, P + d] booleans, True after the end of a shorter prompt.
    """

    rows: slice
    ancestors: Tensor
    positions: Tensor
    key_positions: Tensor
    key_padding: Tensor


def _levels(tree: PrefixTree, n_prompt: int, ends: Tensor) -> list[_Level]:
    """The tree's levels, where the prompt of each sample ends at position `ends` [B]."""
    prompt = torch.arange(n_prompt, device=ends.device)
    levels = []
    for depth, (first, end) in enumerate(pairwise(tree.row_levels), 1):
        steps = torch.arange(1, depth + 1, device=ends.device)
        levels.append(
            _Level(
                rows=slice(n_prompt + first, n_prompt + end),
                ancestors=n_prompt + tree.ancestors[first:end, :depth],
                positions=ends + depth,
                key_positions=torch.cat([prompt.expand(len(ends), -1), ends[:, None] + steps], 1),
                key_padding=F.pad(prompt > ends[:, None], (0, depth)),
            )
        )
    return levels


def _attend_self(x: Tensor, layer: DecoderLayer, bias: Tensor, n_prompt: int, levels: list[_Level]) -> Tensor:
    """The self-attention block: x [B, P + R, D], bias [1, H, T, T] of positions -> the new x."""
    attention = layer.self_attn
    normed = layer.self_attn_layer_norm(x)
    queries = split_heads(attention.q_proj(normed), attention.heads) * attention.scale
    keys, values = attention.keys_values(normed)
    prompt_bias = bias[..., :n_prompt, :n_prompt].to(queries.dtype)
    prompt = [x[:, :, :n_prompt] for x in (queries, keys, values)]
    attended = [F.scaled_dot_product_attention(*prompt, attn_mask=prompt_bias, scale=1.0)]
    for level in levels:
        level_bias = bias[0][:, level.positions[:, None], level.key_positions].transpose(0, 1)  # [B, H, P + d]
        level_bias = level_bias.masked_fill(level.key_padding[:, None], -torch.inf)[:, :, None]
        attended.append(_attend_level(queries, keys, values, level_bias, n_prompt, level))
    attended = _project(torch.cat(attended, 2), attention)
    return layer.residual(x, layer.self_attn_mid_layer_norm(attended))


def _attend_level(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, n_prompt: int, level: _Level) -> Tensor:
    """Scaled queries, keys, values [B, H, P + R, d], bias [B, H, 1, P + depth] -> values [B, H, n, d] for the level."""
    queries = queries[:, :, level.rows]
    # All rows share the prompt (matrix products); ancestors differ by row (element-wise products).
    prompt_keys, prompt_values = keys[:, :, :n_prompt], values[:, :, :n_prompt]
    own_keys, own_values = keys[:, :, level.ancestors], values[:, :, level.ancestors]  # [B, H, n, depth, d]
    own_scores = (queries[..., None, :] * own_keys).sum(-1)
    scores = torch.cat([queries @ prompt_keys.transpose(-1, -2), own_scores], -1) + bias
    weights = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
    shared, own = weights[..., :n_prompt], weights[..., n_prompt:]
    return shared @ prompt_values + (own[..., None] * own_values).sum(-2)


def _project(attended: Tensor, attention: Attention) -> Tensor:
    """The last steps of `Attention.forward`: attended values [B, H, T, d] -> [B, T, D]."""
    attended = attended * attention.c_attn[:, None, None]
    return attention.out_proj(attended.transpose(1, 2).flatten(2))
