"""Predictions as evaluation passes them to callbacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data.batch import Batch


@dataclass(frozen=True)
class SamplePrediction:
    """One evaluated sample: its id, the prediction, and the ground truth the task scores it by."""

    id: str
    prediction: Any
    truth: Any


@dataclass(frozen=True)
class PredictionBatch:
    """The output of an evaluation step: name of the split, the batch, and one prediction for each of its samples."""

    split: str
    batch: Batch
    predictions: list[SamplePrediction]
