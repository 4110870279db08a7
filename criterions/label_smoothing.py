"""Label-smoothed cross entropy over the whole vocabulary, an allowed range of it or an answer tree's next tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from criterions.encouraging import smoothed_bonus
from criterions.rdrop import pass_divergence
from ofa.errors import UserError
from ofa.generation.options import check_constraint_range
from ofa.generation.prefix_tree import PrefixTree
from ofa.model import OFAModel
from ofa.vocabulary import PAD


@dataclass
class Loss:
    """A batch's loss: what is minimised is `sum` / `sample_size`; `terms` holds named sums to log, likewise divided."""

    sum: Tensor
    sample_size: int
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class Targets:
    """The N target tokens of a batch that are not padding, and what each may be.

    Attributes:
        valid: [B, T] booleans, where they stand.
        columns: [N], the tokens as indices into the A ids whose logits are computed.
        ids: [A], these ids; None: the whole vocabulary.
        allowed: [N, A], which of the ids each token may be; None: all.
    """

    valid: Tensor
    columns: Tensor
    ids: Tensor | None = None
    allowed: Tensor | None = None

    def twice(self) -> Targets:
        """Those of the batch stacked on itself."""
        allowed = None if self.allowed is None else torch.cat([self.allowed] * 2)
        return Targets(torch.cat([self.valid] * 2), torch.cat([self.columns] * 2), self.ids, allowed)


class LabelSmoothedCrossEntropy:
    """Cross entropy with a share of the probability spread over all allowed ids (arXiv 1512.00567, section 7).

    Args:
        label_smoothing: that share, in [0, 1).
        constraint_range: first id a target may have, beside ids 0..3, and one behind the last; the softmax is taken
            over these alone, and only their logits are computed. None allows the whole vocabulary.
        drop_worst_ratio: share of the tokens with the largest loss that is left out, as they are often mislabelled ...
        drop_worst_after: ... from the update after this one on.
        sentence_average: divide by the number of samples instead of tokens.
        rdrop_alpha: weight of the divergence of two dropout passes (R-Drop); above 0 the caller stacks both passes.
        encouraging_log_end: adds the encouraging loss' bonus, a line above this probability; None: no bonus.
        drop_best_ratio: share of the tokens with the smallest loss that is left out, as they are known already ...
        drop_best_after: ... from the update after this one on.

    Raises:
        UserError: at construction, for a value that no loss can have.
    """

    def __init__(
        self,
        label_smoothing: float = 0.1,
        constraint_range: tuple[int, int] | None = None,
        drop_worst_ratio: float = 0.0,
        drop_worst_after: int = 0,
        sentence_average: bool = False,
        rdrop_alpha: float = 0.0,
        encouraging_log_end: float | None = None,
        drop_best_ratio: float = 0.0,
        drop_best_after: int = 0,
    ) -> None:
        shares = {
            "label_smoothing": label_smoothing,
            "drop_worst_ratio": drop_worst_ratio,
            "drop_best_ratio": drop_best_ratio,
        }
        for key, share in shares.items():
            if not 0 <= share < 1:
                raise UserError(f"criterion.{key}={share} is not in [0, 1)")
        if drop_worst_ratio + drop_best_ratio >= 1:
            raise UserError(
                f"criterion.drop_worst_ratio={drop_worst_ratio} and criterion.drop_best_ratio={drop_best_ratio} leave "
                "no token; their sum must be below 1"
            )
        if rdrop_alpha < 0:
            raise UserError(f"criterion.rdrop_alpha={rdrop_alpha} is negative; 0 switches R-Drop off")
        if encouraging_log_end is not None and not 0 < encouraging_log_end <= 1:
            raise UserError(f"criterion.encouraging_log_end={encouraging_log_end} is not in (0, 1]; null: no bonus")
        check_constraint_range(constraint_range)
        self.label_smoothing = label_smoothing
        self.constraint_range = constraint_range
        self.drop_worst_ratio = drop_worst_ratio
        self.drop_worst_after = drop_worst_after
        self.sentence_average = sentence_average
        self.rdrop_alpha = rdrop_alpha
        self.encouraging_log_end = encouraging_log_end
        self.drop_best_ratio = drop_best_ratio
        self.drop_best_after = drop_best_after

    @property
    def passes(self) -> int:
        """How often the caller passes each sample through the model: where 2, rows b and b + B / 2 are one sample."""
        return 2 if self.rdrop_alpha > 0 else 1

    def __call__(
        self,
        model: OFAModel,
        hidden: Tensor,
        target: Tensor,
        update: int,
        *,
        weights: Tensor | None = None,
        tree: PrefixTree | None = None,
    ) -> Loss:
        """The loss of a batch.

        Args:
            model: gives the logits.
            hidden: [B, T, D], the decoder's states.
            target: [B, T], padded with 1, in front of the answer too; padding has no loss.
            update: the number of optimizer steps already taken.
            weights: [B], the confidence of each sample: its log-probabilities are multiplied by it.
            tree: the softmax at each token is taken over the next tokens of these answers.

        Raises:
            UserError: as `targets`; or R-Drop's rows are odd.
        """
        if len(target) % self.passes:
            raise UserError(
                f"criterion.rdrop_alpha={self.rdrop_alpha} needs two passes of each sample, stacked, and the batch has "
                f"{len(target)} rows"
            )
        targets = self.targets(target, tree)
        logits = model.logits(hidden[targets.valid], targets.ids)  # none are computed for padding
        return self.of_targets(logits, targets, update, model.config.vocab_size, weights)

    def targets(self, target: Tensor, tree: PrefixTree | None = None) -> Targets:
        """Which tokens of target [B, T] have a loss, and what they may be.

        Raises:
            UserError: a target is not among the allowed; or there are a tree and a constraint range.
        """
        if tree is not None and self.constraint_range is not None:
            raise UserError(
                f"criterion.constraint_range={self.constraint_range} and an answer tree exclude each other; remove one"
            )
        valid = target != PAD
        if tree is not None:
            tree = tree.to(target.device)
            columns, allowed = columns_of_tree(target, valid, tree)
            return Targets(valid, columns, tree.tokens, allowed)
        if self.constraint_range is not None:
            ids, columns = columns_of_range(target[valid], self.constraint_range)
            return Targets(valid, columns, ids)
        return Targets(valid, target[valid])

    def of_targets(
        self, logits: Tensor, targets: Targets, update: int, vocabulary_size: int, weights: Tensor | None = None
    ) -> Loss:
        """The loss of logits [N, A], with weights [B] of the samples."""
        return self.of_logits(
            logits,
            targets.columns,
            n_samples=len(targets.valid),
            update=update,
            vocabulary_size=vocabulary_size,
            weights=None if weights is None else weights[:, None].expand_as(targets.valid)[targets.valid],
            allowed=targets.allowed,
        )

    def of_logits(
        self,
        logits: Tensor,
        target: Tensor,
        n_samples: int,
        update: int,
        vocabulary_size: int,
        weights: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> Loss:
        """The loss of logits [N, A] and target [N], as indices into them, of N tokens with weights [N].

        `allowed` [N, A] says which of the A ids a token may be; None: all.
        """
        log_p = log_probabilities(logits, allowed)
        if weights is not None:
            log_p = log_p * weights[:, None]
        loss, nll = label_smoothed_nll(log_p, target, self.label_smoothing, self._other_ids(logits, allowed))
        if self.encouraging_log_end is not None:
            loss = loss + smoothed_bonus(
                log_p, target, allowed, self.label_smoothing, self.encouraging_log_end, vocabulary_size
            )
        divergence = pass_divergence(log_p) if self.passes == 2 else None
        if self._drops(update):
            # Both passes of a token stay or go, as the first pass says.
            first_pass = self._kept(loss[: len(loss) // self.passes], update)
            kept = torch.cat([first_pass + i * (len(loss) // self.passes) for i in range(self.passes)])
            loss, nll = loss[kept], nll[kept]
            divergence = None if divergence is None else divergence[first_pass]
        terms = {"loss": loss.sum(), "nll": nll.sum()}
        if divergence is not None:
            terms["rdrop"] = divergence.sum()
            terms["loss"] = terms["loss"] + self.rdrop_alpha * terms["rdrop"]
        return Loss(terms["loss"], n_samples if self.sentence_average else len(loss), terms)

    def _other_ids(self, logits: Tensor, allowed: Tensor | None) -> Tensor | float:
        """How many ids a token may be beside its target, a number or [N]; the published 1e-6 more where restricted."""
        if allowed is not None:
            return allowed.sum(-1) - 1 + 1e-6
        return logits.shape[-1] - 1 + (0 if self.constraint_range is None else 1e-6)

    def _drops(self, update: int) -> bool:
        return (self.drop_worst_ratio > 0 and update > self.drop_worst_after) or (
            self.drop_best_ratio > 0 and update > self.drop_best_after
        )

    def _kept(self, loss: Tensor, update: int) -> Tensor:
        """Indices, ascending, of the tokens of loss [N] that are left in: at least one of several."""
        n = len(loss)
        worst = self.drop_worst_ratio if update > self.drop_worst_after else 0
        best = self.drop_best_ratio if update > self.drop_best_after else 0
        end = max(1, int(n * (1 - worst)))
        start = min(n - int(n * (1 - best)), end - 1)
        return loss.detach().argsort(stable=True)[start:end].sort().values


def columns_of_range(target: Tensor, constraint_range: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The ids a target may be, [A]: 0..3 and the range; and target [N] as indices into them.

    Raises:
        UserError: a target is neither.
    """
    first, end = constraint_range
    special = torch.arange(4, device=target.device)
    ids = torch.cat([special, torch.arange(first, end, device=target.device)])
    columns = torch.where(target < 4, target, target - first + 4)
    outside = (target >= 4) & ((target < first) | (target >= end))
    if outside.any():  # else a gather out of bounds, which ends a CUDA context without a readable message
        raise UserError(
            f"the target {int(target[outside][0])} is outside criterion.constraint_range=[{first}, {end}]; "
            "null allows the whole vocabulary"
        )
    return ids, columns


def columns_of_tree(target: Tensor, valid: Tensor, tree: PrefixTree) -> tuple[Tensor, Tensor]:
    """Of the `valid` tokens of target [B, T]: their columns [N] in the tree, and which columns are allowed, [N, A].

    Raises:
        UserError: a target is no answer of the tree.
    """
    columns = tree.columns_of(target[valid])
    allowed = tree.mask(tree.nodes_along(target)[valid])
    known = columns < len(tree.tokens)
    inside = known & allowed.gather(-1, columns.where(known, 0)[:, None])[:, 0]
    # Reading the result waits for the device; indexing by `valid` has just done so, hence little is queued by now.
    if not inside.all():
        row = target[valid.nonzero()[~inside][0, 0]]
        raise UserError(f"the target {row[row != PAD].tolist()} is none of the tree's answers; its loss is infinite")
    return columns, allowed


def log_probabilities(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """Log-softmax of logits [N, A] in float32, over the `allowed` ids [N, A] alone or all.

    Where an id is not allowed it is 0 instead of -inf, so that it adds nothing to sums, nor a nan to gradients.
    """
    if allowed is None:
        return logits.float().log_softmax(-1)
    return logits.float().masked_fill(~allowed, -torch.inf).log_softmax(-1).masked_fill(~allowed, 0)


def label_smoothed_nll(
    log_p: Tensor, target: Tensor, smoothing: float, other_ids: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Smoothed loss [N] and negative log-likelihood [N] of target [N] under log-probabilities [N, A].

    With eps = smoothing / other_ids: (1 - smoothing - eps) * -log p(target) + eps * sum over A of -log p, which is
    (1 - smoothing) * -log p(target) + eps * sum over the other ids. Computed as the latter: where a single id is
    allowed eps is 1e6 * smoothing, and 0 must come out.
    """
    nll = -log_p.gather(-1, target[:, None])[:, 0]
    others = -log_p.sum(-1) - nll
    return (1 - smoothing) * nll + smoothing / other_ids * others, nll
