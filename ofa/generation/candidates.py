"""Probabilities of all answers of a closed set in one decoder pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ofa.generation.beam_search import Hypothesis
from ofa.generation.prefix_tree import PrefixTree
from ofa.generation.step_decoder import average, encode, models_of
from ofa.generation.tree_decoder import decode_tree
from ofa.model import OFAModel
from ofa.vocabulary import BOS


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
        tree: the answers.
        prefix_tokens: [B, P], tokens that each sample's answer follows, right-padded with 1; they are not scored.

    Raises:
        UserError: a model is in training mode.
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

    A hypothesis' score is its log-probability, whatever its length. There are fewer than n if the tree has fewer.

    Raises:
        UserError: as `score_candidates`.
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
    log_probabilities = []
    for m in models_of(model):
        states = decode_tree(m.decoder, encode(m, batch), tree, prompt)
        log_probabilities.append(_log_softmax(_choice_logits(m, states, tree), tree.choosers, states.shape[1]))
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


def _log_softmax(logits: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Log-softmax of logits [B, C] over each set of columns of the same group; groups [C] below n_groups."""
    index = groups.expand_as(logits)
    highest = logits.new_full((len(logits), n_groups), -torch.inf).scatter_reduce(1, index, logits, "amax")
    shifted = logits - highest.gather(1, index)
    sums = logits.new_zeros(len(logits), n_groups).scatter_add(1, index, shifted.exp())
    return shifted - sums.log().gather(1, index)
