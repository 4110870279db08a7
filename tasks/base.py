"""What a task is: `Task`, the shape every task's file has, and `encode_prompt`, which they share.

A task knows one row of a TSV file and one model output, nothing of batches, training or processes. Truth and prediction
are small frozen dataclasses of its own: the truth travels with the sample to `decode`, `score` and `draw`; the fields
of the prediction are what predictions.jsonl holds beside the sample's id.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Generic, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor
from torchmetrics import Metric

from data.batch import Sample
from data.tsv import Row
from ofa.generation import GenerationOptions, Hypothesis
from ofa.tokenizer import Tokenizer
from ofa.vocabulary import BOS, EOS

Truth = TypeVar("Truth")
Prediction = TypeVar("Prediction")


class Task(ABC, Generic[Truth, Prediction]):
    """One task: columns to prompt and target, model output to answer, answer to score."""

    fixed_generation: ClassVar[tuple[str, ...]] = ()
    """Options of `generation` that cannot be changed without making answers that are none."""

    columns: ClassVar[Mapping[str, int]]
    """Name and position, from 0, of each column the task reads in the published files."""

    n_columns: ClassVar[int]
    """How many columns a line of the published files has, the unread ones included."""

    splits: ClassVar[tuple[str, ...]]
    """The evaluation splits, beside "train"; the first is the one validation uses during training."""

    best: ClassVar[str]
    """The name, among those `metric().compute()` returns, of the number to maximise."""

    @property
    @abstractmethod
    def generation(self) -> GenerationOptions:
        """How the published evaluation generates an answer."""

    @abstractmethod
    def encode(self, row: Row, rng: np.random.Generator) -> Sample:
        """Turns a row into ids, image and truth; `rng` is for the tasks that draw captions or augmentations.

        Raises:
            RowError: the row cannot be used.
        """

    @abstractmethod
    def decode(self, hypothesis: Hypothesis, truth: Truth) -> Prediction:
        """Turns the best hypothesis for a sample into an answer."""

    @abstractmethod
    def metric(self) -> Metric:
        """A new, empty metric, whose `compute` returns numbers by name."""

    @abstractmethod
    def score(self, metric: Metric, prediction: Prediction, truth: Truth) -> None:
        """Counts one sample in a metric made by `metric`."""

    @abstractmethod
    def draw(self, image: Tensor, prediction: Prediction, truth: Truth) -> Image.Image:
        """A picture of one answer for people to look at, of the same size for every sample; image [3, h, w]."""


def encode_prompt(tokenizer: Tokenizer, prompt: str, max_tokens: int) -> tuple[list[int], tuple[str, ...]]:
    """`<s>` + prompt + `</s>`, at most `max_tokens` ids in all, and a note where that cut the prompt."""
    tokens = tokenizer.encode(prompt)
    room = max_tokens - 2
    notes = (f"prompt cut to {max_tokens} tokens",) if len(tokens) > room else ()
    return [BOS, *tokens[:room], EOS], notes
