"""Ensembles: one or several models whose probabilities are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ofa.encoder import EncoderOutput
from ofa.errors import UserError
from ofa.model import OFAModel


def models_of(model: OFAModel | Sequence[OFAModel]) -> list[OFAModel]:
    """The models of an ensemble, or the one model as a list.

    Raises:
        UserError: one is in training mode.
    """
    models = [model] if isinstance(model, OFAModel) else list(model)
    if any(m.training for m in models):
        raise UserError("a model is in training mode; call model.eval() first")
    return models


def encode(model: OFAModel, batch: Mapping[str, Tensor | None]) -> EncoderOutput:
    """The encoder output of a batch (see `generate`)."""
    return model.encoder(**{name: batch.get(name) for name in ("input_ids", "patch_images", "patch_masks")})


def average(log_probabilities: list[Tensor]) -> Tensor:
    """The logarithm of the mean probability over models; all tensors have the same shape."""
    if len(log_probabilities) == 1:
        return log_probabilities[0]
    return torch.stack(log_probabilities).logsumexp(0) - torch.tensor(float(len(log_probabilities))).log()
