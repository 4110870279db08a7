"""Visual question answering, scored against the answers that several people gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from data.answers import parse_answers
from data.batch import Sample
from data.tsv import Row
from ofa.processors.question_answering import QuestionProcessor
from tasks.closed import Answer, ClosedAnswerTask
from tasks.drawing import draw_tile
from tasks.metrics.vqa import VQAScore


@dataclass(frozen=True)
class Asked:
    """The question as asked, and each answer that people gave with its confidence; none where they are not known."""

    text: str
    confidences: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class VQA(QuestionProcessor, ClosedAnswerTask[Asked]):
    """VQA v2 (arXiv 1612.00837)."""

    columns = {"uniq_id": 0, "question": 2, "answers": 3, "objects": 4, "image": 5}  # column 1 is the image's id
    n_columns = 6
    splits = ("val", "test")
    answer_column = "answers"
    best = "vqa_score"

    def encode(self, row: Row, rng: np.random.Generator, train: bool) -> Sample:
        """The question, with objects, and its answer of highest confidence, which is the sample's weight.

        Raises:
            RowError: the image does not decode, the question is empty, an answer is malformed; in training also a
                question without answer, or one whose answer is not in the list.
        """
        question = self.ask_in_row(row, row.values["question"], self._objects(row))
        confidences = parse_answers(row)
        if train and not confidences:
            raise row.error("the question has no answer to learn from")
        answer = max(confidences, key=confidences.__getitem__, default=None)
        return Sample(
            id=row.values["uniq_id"],
            source=question.source,
            target=self.encode_answer(answer, row) if train else [],
            image=self.open_image(row)[1],
            truth=Asked(*question.texts, confidences),
            prefix=question.prefix,
            weight=confidences[answer] if train else 1.0,
            notes=question.notes if confidences else (*question.notes, "no answer: not scored"),
        )

    def _objects(self, row: Row) -> list[str]:
        if not self.use_objects:
            return []
        names = (name.strip() for name in row.values["objects"].split("&&"))
        return [name for name in names if name]

    @property
    def unread_columns(self) -> tuple[str, ...]:
        return () if self.use_objects else ("objects",)

    def format_answer(self, answer: Any) -> str:
        if not isinstance(answer, str):
            raise ValueError(f"the answer {answer} is not text")
        return f"1.0|!+{answer}"

    def metric(self) -> VQAScore:
        return VQAScore()

    def score(self, metric: VQAScore, prediction: Answer, truth: Asked) -> None:
        metric.update(truth.confidences.get(prediction.answer, 0.0) if truth.confidences else None)

    def result(self, uniq_id: str, prediction: Answer, truth: Asked) -> dict[str, Any]:
        """The format of the public evaluation server; question ids that are numbers are written as numbers."""
        return {"question_id": int(uniq_id) if uniq_id.isdecimal() else uniq_id, "answer": prediction.answer}

    def draw(self, image: Tensor | None, prediction: Answer, truth: Asked) -> Image.Image:
        best = max(truth.confidences, key=truth.confidences.__getitem__, default="unknown")
        texts = [truth.text, f"answer: {prediction.answer}", f"true: {best}"]
        return draw_tile(image, self.mean, self.std, texts, lines=[2, 1, 1])[0]
