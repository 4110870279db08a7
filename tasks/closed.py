"""The base of tasks with a closed set of answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data.source import Row
from ofa.generation import Hypothesis
from ofa.processors.base import Prompt, PromptError
from ofa.processors.closed import ClosedAnswerProcessor
from tasks.base import Task, Truth


@dataclass(frozen=True)
class Answer:
    """An answer and the sum of its tokens' log-probabilities."""

    answer: str
    score: float


@dataclass(frozen=True, kw_only=True)
class ClosedAnswerTask(Task[Truth, Answer]):
    """A task with a closed set of answers."""

    processor: ClosedAnswerProcessor

    answer_field = "answer"

    def build_prompt(self, row: Row, *texts: Any) -> Prompt:
        """The prompt for texts of a row; RowError where a required text is empty."""
        try:
            return self.processor.build_prompt(*texts)
        except PromptError as error:
            raise row.error(str(error)) from error

    def encode_answer(self, answer: str, row: Row) -> list[int]:
        """The ids of an answer, with `</s>`; RowError where it is not one of the set."""
        try:
            return self.processor.encode_answer(answer)
        except ValueError as error:
            raise row.error(str(error)) from error

    def decode(self, hypothesis: Hypothesis, truth: Truth) -> Answer:
        return Answer(self.processor.postprocess(hypothesis), hypothesis.score)
