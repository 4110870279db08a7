"""Logits and features of student and teacher, and the positions to compare."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from criterions.distillation.feature_losses import valid_cells
from criterions.distillation.layer_mapping import FeaturePair
from ofa.features import Feature


@dataclass(frozen=True)
class States:
    """Logits [N, A] of the target tokens, None where no loss reads them, and the features of the mapped layers."""

    logits: Tensor | None
    features: dict[Feature, Tensor]

    def repeat(self, passes: int) -> States:
        """The states of a batch that is stacked on itself `passes` times."""
        logits = None if self.logits is None else _repeat(self.logits, passes)
        return States(logits, {feature: _repeat(state, passes) for feature, state in self.features.items()})


def _repeat(tensor: Tensor, passes: int) -> Tensor:
    """[passes * N, ...]; under autocast, `torch.cat` refuses other half precisions than that of the context."""
    return tensor.repeat(passes, *[1] * (tensor.dim() - 1))


@dataclass(frozen=True)
class Masks:
    """The positions of source [B, L] and decoder input [B, T] that are not padding."""

    source: Tensor
    target: Tensor

    def of(self, pair: FeaturePair) -> Tensor:
        """The positions that a feature loss compares; of attention maps the cells, [B, T, L]."""
        queries = self.source if pair.stack == "encoder" else self.target
        keys = self.target if pair.stack == "decoder" else self.source
        if pair.feature == "attention":
            return valid_cells(queries, keys)
        return keys if pair.feature in ("key", "value") else queries
