"""Losses on intermediate features by name, and the requirements of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from criterions.distillation.attention import attention_ce, attention_ce_mean, attention_mse, attention_mse_sum
from criterions.distillation.hidden import cos, fsp, hidden_mse, nst, pkd
from criterions.distillation.relation import relation_divergence


@dataclass(frozen=True)
class FeatureLoss:
    """A function of (student, teacher, mask).

    Attributes:
        function: the loss.
        size: number of elements that the loss is a mean over, from the mask, up to a constant factor.
        feature: what it compares: attention, hidden, query, key or value.
        equal_heads: it compares head by head.
        equal_width: it compares channel by channel, so that a student of another width needs a projection.
        of_two_layers: it takes the states of two layers of each model, as a sequence.
    """

    function: Callable[[Any, Any, Tensor], Tensor]
    size: Callable[[Tensor], Tensor]
    feature: str
    equal_heads: bool = False
    equal_width: bool = False
    of_two_layers: bool = False

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
        """The loss of the features of one pair of layers, or of two.

        `mask` is [B, L], True where a position is not padding; of attention maps the valid cells, [B, T, L].
        """
        if self.of_two_layers:
            return self.function(student, teacher, mask)
        return self.function(student[0], teacher[0], mask)


def _queries(cells: Tensor) -> Tensor:
    return cells.any(-1).sum()


def _first_positions(mask: Tensor) -> Tensor:
    return mask[:, 0].sum()


def _samples(mask: Tensor) -> Tensor:
    return torch.ones_like(mask[:, 0]).sum()


def _pairs(mask: Tensor) -> Tensor:
    return mask.sum(1).square().sum()


FEATURE_LOSSES = {
    "attention_mse": FeatureLoss(attention_mse, Tensor.sum, "attention", equal_heads=True),
    "attention_mse_sum": FeatureLoss(attention_mse_sum, Tensor.sum, "attention"),
    "attention_ce": FeatureLoss(attention_ce, _queries, "attention", equal_heads=True),
    "attention_ce_mean": FeatureLoss(attention_ce_mean, _queries, "attention"),
    "hidden_mse": FeatureLoss(hidden_mse, Tensor.sum, "hidden", equal_width=True),
    "cos": FeatureLoss(cos, Tensor.sum, "hidden", equal_width=True),
    "pkd": FeatureLoss(pkd, _first_positions, "hidden", equal_width=True),
    "fsp": FeatureLoss(fsp, _samples, "hidden", equal_width=True, of_two_layers=True),
    "nst": FeatureLoss(nst, _pairs, "hidden", of_two_layers=True),
    "query_relation": FeatureLoss(relation_divergence, _pairs, "query"),
    "key_relation": FeatureLoss(relation_divergence, _pairs, "key"),
    "value_relation": FeatureLoss(relation_divergence, _pairs, "value"),
}
