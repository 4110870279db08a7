"""Prefix tree of a closed set of answers, as arrays for batched look-ups of the allowed next tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ofa.errors import UserError
from ofa.vocabulary import EOS, PAD, UNK

_SPECIAL = 4  # ids 0..3, the first columns whether they occur or not, as in every other set of allowed ids


class PrefixTree:
    """The answers as paths of a tree from the root, one token a node, each path ending in a leaf `</s>`.

    Nodes are numbered level by level, those of one parent side by side in the order of their tokens; the root is 0. So
    the children of a node are a range, and a level is a range. The number `off` stands for a place outside the tree,
    where only `</s>` may follow.

    Tokens are also counted as columns: their place in `tokens`, the sorted ids that occur in the tree and ids 0..3.

    A token without siblings has probability 1. To score all answers, a decoder must only read the nodes before a choice
    between siblings: the rows.

    Construction raises UserError if there is no answer, or an empty one, or one with `<s>`, `<pad>`, `</s>` or `<unk>`.

    Attributes:
        tokens: [A], the id of each column.
        columns: [M], the column of each of the M nodes; 0 for the root.
        parents: [M], the parent of each node; 0 for the root.
        first_child, n_children: [M + 1], the range of each node's children; the last entry is that of `off`.
        leaves: [N], the `</s>` of each of the N answers.
        levels: the nodes of depth d are levels[d] .. levels[d + 1] - 1; the root is depth 0.
        choices: [C], the nodes that have siblings, ascending.
        choosers: [C], the parent of each of `choices`: 0 for the root, 1 + its row for any other.
        rows: [R], the nodes that come before a choice, ascending, without the root.
        row_levels: the rows of depth d are row_levels[d - 1] .. row_levels[d] - 1.
        ancestors: [R, deepest], the path to each row as rows: depth 1 first, itself at its own depth, then 0.
    """

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        if not answers:
            raise UserError("a prefix tree needs at least one answer")
        for number, answer in enumerate(answers):
            if not answer or min(answer) <= UNK:
                raise UserError(f"answer {number} of the prefix tree has the tokens {list(answer)}, which are not text")
        paths = [(*answer, EOS) for answer in answers]
        prefixes = {path[:depth] for path in paths for depth in range(len(path) + 1)}
        nodes = {(): 0}
        parents, levels = [0], [0, 1]
        for depth in range(1, max(map(len, prefixes)) + 1):
            level = sorted((p for p in prefixes if len(p) == depth), key=lambda p: (nodes[p[:-1]], p[-1]))
            for prefix in level:
                nodes[prefix] = len(nodes)
                parents.append(nodes[prefix[:-1]])
            levels.append(len(nodes))
        self.off = len(nodes)
        self.levels = levels
        self.parents = torch.tensor(parents)
        self.leaves = torch.tensor([nodes[path] for path in paths])
        ids = torch.tensor([0, *(prefix[-1] for prefix in list(nodes)[1:])])
        self.tokens = torch.cat([torch.arange(_SPECIAL), ids]).unique()
        self.columns = torch.searchsorted(self.tokens, ids)
        self.n_children = torch.bincount(self.parents[1:], minlength=self.off + 1)
        self.first_child = 1 + self.n_children.cumsum(0) - self.n_children
        self._keys = self.parents[1:] * len(self.tokens) + self.columns[1:]  # ascending, by the order of the nodes
        self._find_rows()
        self._on_device = {self.tokens.device: self}

    def _find_rows(self) -> None:
        """Sets choices, choosers, rows, row_levels and ancestors."""
        is_row = self.n_children[:-1] > 1
        for first, end in reversed(list(pairwise(self.levels[1:]))):
            level = torch.arange(first, end)
            is_row[self.parents[level[is_row[level]]]] = True
        self.rows = 1 + is_row[1:].nonzero()[:, 0]
        number = torch.zeros(self.off, dtype=torch.long)
        number[self.rows] = torch.arange(len(self.rows))
        ends = torch.searchsorted(self.rows, torch.tensor(self.levels[1:])).tolist()
        self.row_levels = ends[: 1 + ends.index(len(self.rows))]
        self.ancestors = torch.zeros(len(self.rows), len(self.row_levels) - 1, dtype=torch.long)
        for d, (first, end) in enumerate(pairwise(self.row_levels)):
            level = torch.arange(first, end)
            self.ancestors[level, :d] = self.ancestors[number[self.parents[self.rows[level]]], :d]
            self.ancestors[level, d] = level
        self.choices = 1 + (self.n_children[self.parents[1:]] > 1).nonzero()[:, 0]
        parents = self.parents[self.choices]
        self.choosers = torch.where(parents == 0, 0, 1 + number[parents])

    @torch.inference_mode(False)  # a copy first made in validation must serve training, too
    def to(self, device: torch.device) -> PrefixTree:
        """The same tree on `device`; made once."""
        if device not in self._on_device:
            moved = copy.copy(self)
            for name, value in vars(self).items():
                setattr(moved, name, value.to(device) if isinstance(value, Tensor) else value)
            self._on_device[device] = moved
        return self._on_device[device]

    @property
    def longest(self) -> int:
        """The number of tokens of the longest answer, without `</s>`."""
        return len(self.levels) - 3  # levels are the root, the answers' tokens, the last `</s>`, and an end

    def next_tokens(self, prefix: Sequence[int]) -> list[int]:
        """The ids that may follow `prefix`, ascending: none after a whole answer, `</s>` outside the tree.

        >>> PrefixTree([[7, 8], [7], [9]]).next_tokens([7])
        [2, 8]
        """
        node = torch.tensor(0, device=self.tokens.device)
        for token in prefix:
            node = self.step(node, self.columns_of(torch.tensor(token, device=node.device)))
        return self.tokens[self.mask(node)].tolist()

    def columns_of(self, ids: Tensor) -> Tensor:
        """The column of each of ids [...]; A, which is not a column, if the id does not occur in the tree."""
        columns = torch.searchsorted(self.tokens, ids).clamp(max=len(self.tokens) - 1)
        return torch.where(self.tokens[columns] == ids, columns, len(self.tokens))

    def step(self, nodes: Tensor, columns: Tensor) -> Tensor:
        """The child of each node by a token's column, both [...]; `off` where there is none."""
        keys = nodes * len(self.tokens) + columns
        found = torch.searchsorted(self._keys, keys).clamp(max=len(self._keys) - 1)
        is_child = (self._keys[found] == keys) & (columns < len(self.tokens))
        return torch.where(is_child, found + 1, self.off)

    def mask(self, nodes: Tensor) -> Tensor:
        """Which columns may follow each of `nodes` [...]: booleans [..., A]."""
        flat = nodes.flatten()
        allowed = torch.zeros(len(flat), len(self.tokens), dtype=torch.bool, device=flat.device)
        counts = self.n_children[flat]
        rows = torch.arange(len(flat), device=flat.device).repeat_interleave(counts)
        place = torch.arange(len(rows), device=flat.device) - (counts.cumsum(0) - counts)[rows]
        allowed[rows, self.columns[self.first_child[flat][rows] + place]] = True
        allowed[flat == self.off, EOS] = True
        return allowed.view(*nodes.shape, len(self.tokens))

    def paths(self, leaves: Tensor) -> Tensor:
        """The nodes on the path to each of `leaves` [...]: [..., deepest]; the root before shorter paths."""
        nodes = [leaves]
        for _ in range(self.longest):
            nodes.append(self.parents[nodes[-1]])
        return torch.stack(nodes[::-1], -1)

    def nodes_along(self, target: Tensor) -> Tensor:
        """The node before each token of target [B, T]; left padding is the root."""
        columns = self.columns_of(target)
        node = torch.zeros_like(target[:, 0])
        nodes = []
        for t in range(target.shape[1]):
            nodes.append(node)
            node = torch.where(target[:, t] == PAD, node, self.step(node, columns[:, t]))
        return torch.stack(nodes, 1)
