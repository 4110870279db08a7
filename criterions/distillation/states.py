"""What the losses of distillation read of a model, the student's and the teacher's alike."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from criterions.distillation.attention import valid_cells
from criterions.distillation.matching import Match
from ofa.features import Feature


@dataclass(frozen=True)
class States:
    """Logits [N, A] of the target tokens, None where no loss reads them, and the features of the matched layers."""

    logits: Tensor | None
    features: dict[Feature, Tensor]

    def twice(self) -> States:
        """Those of the batch stacked on itself."""
        logits = None if self.logits is None else _twice(self.logits)
        return States(logits, {feature: _twice(state) for feature, state in self.features.items()})


def _twice(tensor: Tensor) -> Tensor:
    """[2 N, ...]; autocast refuses to concatenate a half precision that is not its own."""
    return tensor.repeat(2, *[1] * (tensor.dim() - 1))


@dataclass(frozen=True)
class Masks:
    """Which positions of the source [B, L] and of what the decoder reads [B, T] are not padding."""

    source: Tensor
    target: Tensor

    def of(self, match: Match) -> Tensor:
        """The positions that a match compares; of attention maps the cells, [B, T, L]."""
        queries = self.source if match.stack == "encoder" else self.target
        keys = self.target if match.stack == "decoder" else self.source
        if match.feature == "attention":
            return valid_cells(queries, keys)
        return keys if match.feature in ("key", "value") else queries
