"""Tasks whose answer is one of a known set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data.tsv import Row
from ofa.generation import Hypothesis
from ofa.processors.base import Prompt, PromptError
from ofa.processors.closed import ClosedAnswerProcessor
from tasks.base import Truth
from tasks.image_task import ImageTask


@dataclass(frozen=True)
class Answer:
    """An answer and the sum of its tokens' log-probabilities."""

    answer: str
    score: float


@dataclass(frozen=True, kw_only=True)
class ClosedAnswerTask(ClosedAnswerProcessor, ImageTask[Truth, Answer]):
    """A task whose answers are known beforehand."""

    answer_field = "answer"

    def ask_in_row(self, row: Row, *texts: Any) -> Prompt:
        """The question that texts of a row make.

        Raises:
            RowError: one that it needs is empty.
        """
        try:
            return self.ask(*texts)
        except PromptError as error:
            raise row.error(str(error)) from error

    def encode_answer(self, answer: str, row: Row) -> list[int]:
        """The ids of an answer, with `</s>`.

        Raises:
            RowError: the answer is not one of the set.
        """
        try:
            return self.answer_tokens(answer)
        except ValueError as error:
            raise row.error(str(error)) from error

    def decode(self, hypothesis: Hypothesis, truth: Truth) -> Answer:
        return Answer(self.answer(hypothesis), hypothesis.score)
