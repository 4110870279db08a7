"""The interface of a loss, and the target tokens and allowed ids that all losses share.

Letters in shapes: B batch, T target, N target tokens of the batch, A ids whose logits are computed, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ofa.config import check_choice
from ofa.errors import UserError
from ofa.generation.options import check_constraint_range
from ofa.generation.prefix_tree import PrefixTree
from ofa.vocabulary import BIN_OFFSET, BINS, CODE_OFFSET, PAD, VOCABULARY_SIZE

NAMED_RANGES = {"bins": BINS, "codes": (CODE_OFFSET, BIN_OFFSET)}


@dataclass
class Loss:
    """The loss of a batch: `sum` / `sample_size` is minimized; `terms` are sums to log, divided in the same way.

    Raises:
        UserError: at construction, where `sum` or a term is not a single number, or the term "loss" is missing.
    """

    sum: Tensor
    sample_size: int
    terms: dict[str, Tensor]

    def __post_init__(self) -> None:
        shapes = {"sum": tuple(self.sum.shape), **{name: tuple(term.shape) for name, term in self.terms.items()}}
        if "loss" not in self.terms or any(shapes.values()):
            raise UserError(
                f"a Loss needs the sum over the batch and its terms, among them 'loss', as single numbers; it got "
                f"tensors of the shapes {shapes}"
            )


@dataclass(frozen=True)
class Targets:
    """The N target tokens of a batch that are not padding, and the ids allowed at each.

    Attributes:
        valid: [B, T] booleans, the positions of the tokens.
        columns: [N], the tokens as indices into the A ids.
        vocabulary_size: V.
        ids: [A]; None: the whole vocabulary.
        allowed: [N, A], which of the ids are allowed at each token; None: all.
    """

    valid: Tensor
    columns: Tensor
    vocabulary_size: int = VOCABULARY_SIZE
    ids: Tensor | None = None
    allowed: Tensor | None = None

    def repeat(self, passes: int) -> Targets:
        """The targets of a batch that is stacked on itself `passes` times."""
        allowed = None if self.allowed is None else torch.cat([self.allowed] * passes)
        valid, columns = torch.cat([self.valid] * passes), torch.cat([self.columns] * passes)
        return replace(self, valid=valid, columns=columns, allowed=allowed)

    def of_tokens(self, per_sample: Tensor) -> Tensor:
        """[N], the value of each token's sample in `per_sample` [B]."""
        return per_sample[:, None].expand_as(self.valid)[self.valid]


@runtime_checkable
class Criterion(Protocol):
    """A loss on the target tokens. A subclass in any importable module is chosen by `_target_` in its config file.

    It receives the logits of the allowed ids only. Parameters of a criterion that is a `torch.nn.Module` are trained.

    Attributes:
        passes: dropout passes of each sample. With 2, rows b and b + B / 2 of the batch are the same sample.
        needs_rewards: whether it is trained on rewards of generated sequences instead of targets. Such a criterion has
            the signature of `criterions.self_critical.SelfCritical`.
    """

    passes: int = 1
    needs_rewards: bool = False

    def __call__(self, logits: Tensor, targets: Targets, step: int, weights: Tensor | None = None) -> Loss:
        """The loss of a batch; `terms` contains at least "loss", the sum itself.

        Args:
            logits: [N, A], of the allowed ids at each target token, in the precision of the model.
            targets: the N tokens.
            step: number of optimizer steps already taken.
            weights: [B], the confidence of each sample; None: all 1.
        """
        ...


@dataclass(frozen=True)
class AllowedIds:
    """The ids a target token may have: the whole vocabulary, a range, or the next tokens of a task's answers.

    Args:
        vocabulary_size: V.
        constraint_range: "bins", "codes" or [first, end]: ids first .. end - 1, in addition to the special ids 0..3.
            The setting `criterion.constraint_range`; None: no range.
        tree: the closed set of answers of a task; None: open answers.

    Raises:
        UserError: at construction, for a range that does not exist, or a range together with a tree.
    """

    vocabulary_size: int = VOCABULARY_SIZE
    constraint_range: str | Sequence[int] | None = None
    tree: PrefixTree | None = None

    def __post_init__(self) -> None:
        if isinstance(self.constraint_range, str):
            check_choice(self.constraint_range, "criterion.constraint_range", (*NAMED_RANGES, "[first, end]"))
        check_constraint_range(self.range)
        if self.tree is not None and self.range is not None:
            raise UserError(f"{self}: the task allows its listed answers only; set criterion.constraint_range=null")

    def __str__(self) -> str:
        """The setting that restricts the ids, as it is given on the command line."""
        named = self.constraint_range is not None
        return f"criterion.constraint_range={self.constraint_range}" if named else "the answers of the task"

    @property
    def range(self) -> Sequence[int] | None:
        """First id of the range, and the id after its last; None: no range."""
        named = isinstance(self.constraint_range, str)
        return NAMED_RANGES[self.constraint_range] if named else self.constraint_range

    @property
    def is_restricted(self) -> bool:
        return self.tree is not None or self.range is not None

    @property
    def digest(self) -> str | list[int] | None:
        """A JSON value that is the same for the same ids."""
        if self.tree is None:
            return None if self.range is None else list(self.range)
        parts = (self.tree.tokens, self.tree.columns, self.tree.parents)
        return hashlib.sha256(b"".join(part.cpu().numpy().tobytes() for part in parts)).hexdigest()

    def targets(self, target: Tensor) -> Targets:
        """The tokens of target [B, T] that are not padding.

        Raises:
            UserError: a target is not allowed.
        """
        valid = target != PAD
        tokens = target[valid]
        if self.tree is not None:
            tree = self.tree.to(target.device)
            columns, allowed = tree.columns_of(tokens), tree.mask(tree.nodes_along(target)[valid])
            known = columns < len(tree.tokens)
            inside = known & allowed.gather(-1, columns.where(known, 0)[:, None])[:, 0]
            # Reading the result synchronizes with the device; indexing by `valid` has just done so: it costs little.
            if not inside.all():
                row = target[valid.nonzero()[~inside][0, 0]]
                answer = row[row != PAD].tolist()
                raise UserError(f"the target {answer} is none of the tree's answers; its loss is infinite")
            return Targets(valid, columns, self.vocabulary_size, tree.tokens, allowed)
        if self.range is None:
            return Targets(valid, tokens, self.vocabulary_size)
        first, end = self.range
        outside = (tokens >= 4) & ((tokens < first) | (tokens >= end))
        if outside.any():  # a gather out of bounds would end a CUDA context without a readable message
            raise UserError(f"the target {int(tokens[outside][0])} is outside {self}; null allows the whole vocabulary")
        ids = torch.cat([torch.arange(4, device=target.device), torch.arange(first, end, device=target.device)])
        return Targets(valid, torch.where(tokens < 4, tokens, tokens - first + 4), self.vocabulary_size, ids)


def log_probabilities(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """Log-softmax of logits [N, A] in float32 over the `allowed` ids [N, A]; None: over all.

    Ids that are not allowed get 0 instead of -inf, so that they add nothing to sums and no nan to gradients.
    """
    if allowed is None:
        return logits.float().log_softmax(-1)
    return logits.float().masked_fill(~allowed, -torch.inf).log_softmax(-1).masked_fill(~allowed, 0)
