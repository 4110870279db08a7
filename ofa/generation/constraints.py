"""Constraints on the next token, for beam search and sampling."""

import torch
from torch import Tensor

from ofa.errors import UserError
from ofa.generation.options import SequenceOptions
from ofa.vocabulary import BOS, EOS, PAD, UNK

NEVER_CHOSEN = [BOS, PAD, UNK]  # the original let `<s>` and `<unk>` through; boxes could contain them


class Constraints:
    """The rules for N samples, of which B are unfinished, each with K sequences of t tokens.

    Tokens are held as columns of the allowed ids (`<s>`, `<pad>`, `</s>`, `<unk>` are 0..3 in both countings). The
    caller keeps the node of each sequence in the prefix tree; without a tree nodes are ignored.

    Construction raises UserError for prefix tokens [N, P] outside the constraint range.

    Attributes:
        allowed_ids: [A], the ids whose logits are needed; None: the vocabulary.
        limits: the length at which `</s>` is forced, of each of the N samples.
    """

    def __init__(
        self, options: SequenceOptions, n_samples: int, prefix_tokens: Tensor | None, device: torch.device
    ) -> None:
        self.options = options
        self.tree = None if options.prefix_tree is None else options.prefix_tree.to(device)
        self.allowed_ids = None  # prefix tokens are scored over the vocabulary, with a tree, too
        if options.constraint_range is not None:
            ids = torch.arange(*options.constraint_range, device=device)
            self.allowed_ids = torch.cat([torch.arange(4, device=device), ids])
        elif self.tree is not None and options.softmax_over_tree and prefix_tokens is None:
            self.allowed_ids = self.tree.tokens
        self.prefix = prefix_tokens  # [N, P], as columns
        if prefix_tokens is not None and self.allowed_ids is not None:
            self.prefix = torch.searchsorted(self.allowed_ids, prefix_tokens).clamp(max=len(self.allowed_ids) - 1)
            outside = self.allowed_ids[self.prefix] != prefix_tokens
            if outside.any():
                raise UserError(
                    f"the prefix token {int(prefix_tokens[outside][0])} is outside "
                    f"constraint_range={options.constraint_range}; leave the range out, or the prefix"
                )
        self.limits = [options.max_len] * n_samples
        if prefix_tokens is not None and not options.prefix_counts_toward_max_len:
            self.limits = [options.max_len + length for length in (prefix_tokens != PAD).sum(1).tolist()]

    def log_softmax(self, logits: Tensor, samples: Tensor, nodes: Tensor, length: int) -> Tensor:
        """Log-probabilities [B, K, A] of float32 logits [B, K, A], among the next tokens of a tree if there is one.

        Args:
            samples: [B], which of the N samples they belong to.
            nodes: [B, K], where each sequence stands in the tree.
            length: t.
        """
        if self.tree is not None and self.options.softmax_over_tree:
            is_forced = (self.forced(samples, length) != PAD)[:, None, None]
            logits = logits.masked_fill(self._outside_tree(nodes, logits.shape[-1]) & ~is_forced, -torch.inf)
        return torch.log_softmax(logits, -1)

    def allow(self, log_probabilities: Tensor, samples: Tensor, nodes: Tensor, length: int) -> Tensor:
        """The result [B, K, A] of `log_softmax`, with minus infinity where the rules forbid a token."""
        allowed = log_probabilities.clone()
        allowed[..., NEVER_CHOSEN] = -torch.inf
        if self.tree is not None:
            allowed.masked_fill_(self._outside_tree(nodes, allowed.shape[-1]), -torch.inf)
        ends = [i for i, sample in enumerate(samples.tolist()) if length >= self.limits[sample]]
        at_end = allowed[ends, :, EOS]
        if length < self.options.min_len:
            allowed[..., EOS] = -torch.inf
        if self.prefix is not None and length < self.prefix.shape[1]:
            forced = self.forced(samples, length)[:, None, None]
            only = torch.full_like(allowed, -torch.inf)
            index = forced.expand(*allowed.shape[:2], 1)
            only.scatter_(-1, index, log_probabilities.gather(-1, index))
            allowed = torch.where(forced != PAD, only, allowed)
        allowed[ends] = -torch.inf
        allowed[ends, :, EOS] = at_end
        return allowed

    def forced(self, samples: Tensor, length: int) -> Tensor:
        """[B], the column of the prefix token that comes next; `<pad>` where there is none."""
        if self.prefix is None or length >= self.prefix.shape[1]:
            return torch.full_like(samples, PAD)
        return self.prefix[samples, length]

    def walk(self, nodes: Tensor, columns: Tensor, samples: Tensor, length: int) -> Tensor:
        """The nodes [B, K] that the chosen columns [B, K] lead to; a prefix does not leave the root."""
        if self.tree is None:
            return nodes
        if self.allowed_ids is None:
            columns = self.tree.columns_of(columns)
        return torch.where(self.forced(samples, length)[:, None] != PAD, nodes, self.tree.step(nodes, columns))

    def ids_of(self, columns: Tensor) -> Tensor:
        """The ids of columns, both of any shape."""
        return columns if self.allowed_ids is None else self.allowed_ids[columns]

    def _outside_tree(self, nodes: Tensor, n_columns: int) -> Tensor:
        """[B, K, A] booleans, True where no answer of the tree continues."""
        outside = ~self.tree.mask(nodes)
        if self.allowed_ids is not None:
            return outside
        whole = outside.new_ones(*nodes.shape, n_columns)  # columns are the vocabulary's, not the tree's
        whole[..., self.tree.tokens] = outside
        return whole
