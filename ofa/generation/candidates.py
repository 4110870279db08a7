"""Probabilities of all answers of a closed set in one decoder pass.

The pass reads a whole prefix tree. Each row of the tree is a query that sees its sample's prompt, its ancestors and
itself, never the other rows. Positions follow the depth, so the rows of one level share their position biases.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ofa.attention import split_heads
from ofa.decoder import Decoder, DecoderLayer
from ofa.encoder import EncoderOutput
from ofa.generation.beam_search import Hypothesis
from ofa.generation.prefix_tree import PrefixTree
from ofa.generation.step_decoder import average, encode, models_of
from ofa.model import OFAModel
from ofa.vocabulary import BOS, PAD


def score_candidates(
    model: OFAModel | Sequence[OFAModel],
    batch: Mapping[str, Tensor | None],
    tree: PrefixTree,
    prefix_tokens: Tensor | None = None,
) -> Tensor:
    """The log-probability of each of the tree's N answers, `</s>` included, [B, N] in float32.

    Probabilities are those of beam search under the tree: each token's among the tokens that may follow there.

    Args:
        model: one model, or several whose probabilities are averaged token by token; all in evaluation mode.
        batch: as for `generate`.
        prefix_tokens: [B, P], tokens that each sample's answer follows, right-padded with 1; they are not scored.
    """
    tree = tree.to(batch["input_ids"].device)
    return _node_scores(model, batch, tree, prefix_tokens)[:, tree.paths(tree.leaves)].sum(-1)


def best_candidates(
    model: OFAModel | Sequence[OFAModel],
    batch: Mapping[str, Tensor | None],
    tree: PrefixTree,
    prefix_tokens: Tensor | None = None,
    n: int = 1,
) -> list[list[Hypothesis]]:
    """The n most probable answers for each sample, best first, without the prefix; arguments as `score_candidates`.

    A hypothesis' score is its log-probability, whatever its length.
    """
    tree = tree.to(batch["input_ids"].device)
    by_node = _node_scores(model, batch, tree, prefix_tokens)
    paths = tree.paths(tree.leaves.unique())  # equal answers are one
    scores, best = by_node[:, paths].sum(-1).topk(min(n, len(paths)))
    nodes = paths[best]  # [B, n, deepest]
    tokens = tree.tokens[tree.columns[nodes]]
    token_scores = by_node.gather(1, nodes.flatten(1)).view_as(nodes)
    lengths = (nodes > 0).sum(-1)
    columns = (x.tolist() for x in (scores, tokens, token_scores, lengths))
    return [
        [Hypothesis(ids[-length:], score, parts[-length:]) for score, ids, parts, length in zip(*sample, strict=True)]
        for sample in zip(*columns, strict=True)
    ]


@torch.no_grad()
def _node_scores(
    model: OFAModel | Sequence[OFAModel],
    batch: Mapping[str, Tensor | None],
    tree: PrefixTree,
    prefix_tokens: Tensor | None,
) -> Tensor:
    """The log-probability of each of the tree's M nodes after its parent, [B, M]; the root's is 0."""
    start = torch.full_like(batch["input_ids"][:, :1], BOS)
    prompt = start if prefix_tokens is None else torch.cat([start, prefix_tokens], 1)
    log_probabilities = [
        _log_softmax(_choice_logits(m, _decode_tree(m.decoder, encode(m, batch), tree, prompt), tree), tree)
        for m in models_of(model)
    ]
    scores = torch.zeros(len(prompt), tree.off, device=prompt.device)  # 0: the only child is certain
    scores[:, tree.choices] = average(log_probabilities)
    return scores


def _choice_logits(model: OFAModel, states: Tensor, tree: PrefixTree) -> Tensor:
    """The logit [B, C] of each of the tree's choices, from the states [B, 1 + R, D] of what they follow."""
    ids = tree.tokens[tree.columns[tree.choices]]
    n_first = tree.levels[2] - 1 if tree.levels[2] > 2 else 0  # the root's children, where it has several
    first = model.logits(states[:, 0], ids[:n_first])
    # The others have few siblings: one product per choice is cheaper than one per choice and row.
    weight = model.decoder.output_projection.weight
    rest = (states[:, tree.choosers[n_first:]] * F.embedding(ids[n_first:], weight)).sum(-1)
    return torch.cat([first.float(), rest.float()], 1)


def _log_softmax(logits: Tensor, tree: PrefixTree) -> Tensor:
    """Log-softmax of the logits [B, C] of the tree's choices over siblings."""
    index, n_groups = tree.choosers.expand_as(logits), 1 + len(tree.rows)
    highest = logits.new_full((len(logits), n_groups), -torch.inf).scatter_reduce(1, index, logits, "amax")
    shifted = logits - highest.gather(1, index)
    sums = logits.new_zeros(len(logits), n_groups).scatter_add(1, index, shifted.exp())
    return shifted - sums.log().gather(1, index)


def _decode_tree(decoder: Decoder, encoder_output: EncoderOutput, tree: PrefixTree, prompt: Tensor) -> Tensor:
    """States of the tree's root and its R rows, [B, 1 + R, D], after a prompt [B, P], right-padded with 1."""
    samples, n_prompt = prompt.shape
    ends = (prompt != PAD).sum(1) - 1
    levels = list(_levels(tree, n_prompt, ends))
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
    """The n rows of depth d, which follow the P of the prompt, and the P + d keys that each of them sees."""

    rows: slice
    ancestors: Tensor  # [n, d], the rows each of them sees besides the prompt
    positions: Tensor  # [B], where they stand in each sample
    key_positions: Tensor  # [B, P + d], where the keys stand
    key_padding: Tensor  # [B, P + d] booleans, True after the end of a shorter prompt


def _levels(tree: PrefixTree, n_prompt: int, ends: Tensor) -> Iterator[_Level]:
    """The tree's levels, where the prompt of each sample ends at position `ends` [B]."""
    prompt = torch.arange(n_prompt, device=ends.device)
    for depth, (first, end) in enumerate(pairwise(tree.row_levels), 1):
        steps = torch.arange(1, depth + 1, device=ends.device)
        yield _Level(
            rows=slice(n_prompt + first, n_prompt + end),
            ancestors=n_prompt + tree.ancestors[first:end, :depth],
            positions=ends + depth,
            key_positions=torch.cat([prompt.expand(len(ends), -1), ends[:, None] + steps], 1),
            key_padding=F.pad(prompt > ends[:, None], (0, depth)),
        )


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
    attended = attention.project(torch.cat(attended, 2))
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
