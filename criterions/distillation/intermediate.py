"""The losses on intermediate states by name, and what each asks of student and teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from criterions.distillation.attention import attention_ce, attention_ce_mean, attention_mse, attention_mse_sum
from criterions.distillation.hidden import cos, fsp, hidden_mse, nst, pkd
from criterions.distillation.relation import relation_divergence


@dataclass(frozen=True)
class IntermediateLoss:
    """A function of (student, teacher, mask).

    Attributes:
        function: the loss.
        feature: what it compares: attention, hidden, query, key or value.
        equal_heads: it compares head by head.
        equal_width: it compares channel by channel, so that a student of another width needs a projection.
        of_two_layers: it takes the states of two layers of each, as a sequence.
    """

    function: Callable[[Any, Any, Tensor], Tensor]
    feature: str
    equal_heads: bool = False
    equal_width: bool = False
    of_two_layers: bool = False

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
        """The loss of the features of a match's layers, one or two of each.

        `mask` is [B, L], True where a position is not padding; of attention maps the valid cells, [B, T, L].
        """
        if self.of_two_layers:
            return self.function(student, teacher, mask)
        return self.function(student[0], teacher[0], mask)


INTERMEDIATE_LOSSES = {
    "attention_mse": IntermediateLoss(attention_mse, "attention", equal_heads=True),
    "attention_mse_sum": IntermediateLoss(attention_mse_sum, "attention"),
    "attention_ce": IntermediateLoss(attention_ce, "attention", equal_heads=True),
    "attention_ce_mean": IntermediateLoss(attention_ce_mean, "attention"),
    "hidden_mse": IntermediateLoss(hidden_mse, "hidden", equal_width=True),
    "cos": IntermediateLoss(cos, "hidden", equal_width=True),
    "pkd": IntermediateLoss(pkd, "hidden", equal_width=True),
    "fsp": IntermediateLoss(fsp, "hidden", equal_width=True, of_two_layers=True),
    "nst": IntermediateLoss(nst, "hidden", of_two_layers=True),
    "query_relation": IntermediateLoss(relation_divergence, "query"),
    "key_relation": IntermediateLoss(relation_divergence, "key"),
    "value_relation": IntermediateLoss(relation_divergence, "value"),
}
