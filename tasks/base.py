"""What a task is: `Task`, the shape every task's file has: a processor with rows, truths and scores.

A task knows one row of a TSV file and one model output, nothing of batches, training or processes. Truth and prediction
are small frozen dataclasses of its own: the truth travels with the sample to `decode`, `score` and `draw`; the fields
of the prediction are what predictions.jsonl holds beside the sample's id.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor
from torchmetrics import Metric

from data.batch import Sample
from data.tsv import Row
from ofa.generation import Hypothesis
from ofa.processors.base import Processor

Truth = TypeVar("Truth")
Prediction = TypeVar("Prediction")


class Task(Processor, Generic[Truth, Prediction]):
    """One task: columns to prompt and target, model output to answer, answer to score."""

    columns: ClassVar[Mapping[str, int]]
    """Name and position, from 0, of each column the task reads in the published files."""

    n_columns: ClassVar[int]
    """How many columns a line of the published files has, the unread ones included."""

    splits: ClassVar[tuple[str, ...]]
    """The evaluation splits, beside "train"; the first is the one validation uses during training."""

    files: ClassVar[Mapping[str, str]] = {}
    """The published file of a split, where its name is not `<task>_<split>.tsv`."""

    answer_column: ClassVar[str]
    """The column that holds the answer to learn."""

    answer_field: ClassVar[str]
    """The field of a prediction that is the answer."""

    best: ClassVar[str]
    """The name, among those `metric().compute()` returns, of the number to maximise."""

    reward_columns: ClassVar[tuple[str, ...]] = ()
    """The columns that `build_reward` reads; none: the task gives no rewards for generated sequences."""

    unread_columns: tuple[str, ...] = ()
    """Those of `columns` that its settings leave unread, so that a file need not have them."""

    @abstractmethod
    def encode(self, row: Row, rng: np.random.Generator, train: bool) -> Sample:
        """Turns a row into ids, image and truth; `rng` is for the tasks that draw captions or augmentations.

        In evaluation a row need not have a truth: its answer is written and not scored.

        Raises:
            RowError: the row cannot be used.
        """

    @abstractmethod
    def decode(self, hypothesis: Hypothesis, truth: Truth) -> Prediction:
        """Turns the best hypothesis for a sample into an answer."""

    @abstractmethod
    def format_answer(self, answer: Any) -> str:
        """A predicted answer, as predictions.jsonl holds it in `answer_field`, in the format of `answer_column`.

        Raises:
            ValueError: it is no such answer.
        """

    @abstractmethod
    def metric(self) -> Metric:
        """A new, empty metric, whose `compute` returns numbers by name."""

    def test_metric(self) -> Metric:
        """The metric of the final test, where it says more than that of the validations during training."""
        return self.metric()

    @abstractmethod
    def score(self, metric: Metric, prediction: Prediction, truth: Truth) -> None:
        """Counts one sample in a metric made by `metric`."""

    @abstractmethod
    def draw(self, image: Tensor | None, prediction: Prediction, truth: Truth) -> Image.Image:
        """A picture of one answer for people to look at, of the same size for every sample; image [3, h, w] or None."""

    def build_reward(self, rows: Sequence[Row], skip_broken: bool) -> Callable[[Sequence[Hypothesis], Truth], Tensor]:
        """A function of K hypotheses for a sample and its truth that returns their rewards, [K].

        Args:
            rows: the training rows, with `reward_columns` only.
            skip_broken: leave broken rows out.

        Raises:
            RowError: a row is broken, without `skip_broken`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no reward_columns")

    def result(self, uniq_id: str, prediction: Prediction, truth: Truth) -> dict[str, Any] | None:
        """An answer as the task's public evaluation server wants it, its id first; None where there is no such."""
        return None

    def details(self, metric: Metric) -> dict[str, Any]:
        """What a metric knows beside its numbers, such as a confusion matrix, as JSON can hold it."""
        return {}
