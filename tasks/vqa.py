"""Visual question answering, scored against the answers that several people gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from data.batch import Sample
from data.cells import decode_image, parse_answers, split_cell
from data.demo.language import possible_answers
from data.demo.rows import question_rows
from data.layout import QUESTIONS
from data.source import Row
from data.tsv import TSVFile
from ofa.processors.question_answering import QuestionProcessor
from tasks.base import draw_tile
from tasks.baselines import blind_answers
from tasks.closed import Answer, ClosedAnswerTask
from tasks.metrics.accuracy import VQAScore


@dataclass(frozen=True)
class AnnotatedQuestion:
    """The cleaned question, and each answer that people gave with its confidence; none where they are not known."""

    text: str
    confidences: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class VQA(ClosedAnswerTask[AnnotatedQuestion]):
    """VQA v2 (arXiv 1612.00837)."""

    processor: QuestionProcessor

    processor_class = QuestionProcessor
    columns = {"uniq_id": 0, "question": 2, "answers": 3, "objects": 4, "image": 5}  # column 1 is the image's id
    n_columns = 6
    splits = ("val", "test")
    answer_column = "answers"
    monitor = "vqa_score"
    layout = QUESTIONS
    demo_rows = staticmethod(question_rows)
    demo_answers = staticmethod(possible_answers)

    def encode(self, row: Row, rng: np.random.Generator, train: bool) -> Sample:
        """The question, with objects, and its answer of highest confidence, which is the sample's weight.

        Raises:
            RowError: the image does not decode, the question is empty, an answer is malformed; in training also a
                question without answer, or one whose answer is not in the list.
        """
        objects = split_cell(row.values["objects"]) if self.processor.use_objects else []
        prompt = self.build_prompt(row, row.values["question"], objects)
        confidences = parse_answers(row)
        if train and not confidences:
            raise row.error("the question has no answer to train on")
        answer = max(confidences, key=confidences.__getitem__, default=None)
        return Sample(
            id=row.values["uniq_id"],
            source=prompt.source,
            target=self.encode_answer(answer, row) if train else [],
            image=self.processor.pixels(decode_image(row.values["image"], row)),
            truth=AnnotatedQuestion(*prompt.texts, confidences),
            prefix=prompt.prefix,
            weight=confidences[answer] if train else 1.0,
            notes=prompt.notes if confidences else (*prompt.notes, "no answer: not scored"),
        )

    @property
    def unused_columns(self) -> tuple[str, ...]:
        return () if self.processor.use_objects else ("objects",)

    def format_answer(self, answer: Any) -> str:
        if not isinstance(answer, str):
            raise ValueError(f"the answer {answer} is not text")
        return f"1.0|!+{answer}"

    def metric(self) -> VQAScore:
        return VQAScore()

    def score(self, metric: VQAScore, prediction: Answer, truth: AnnotatedQuestion) -> None:
        metric.update(truth.confidences.get(prediction.answer, 0.0) if truth.confidences else None)

    def server_record(self, uniq_id: str, prediction: Answer, truth: AnnotatedQuestion) -> dict[str, Any]:
        """The format of the public evaluation server; question ids that are numbers are written as numbers."""
        return {"question_id": int(uniq_id) if uniq_id.isdecimal() else uniq_id, "answer": prediction.answer}

    def draw(self, image: Tensor | None, prediction: Answer, truth: AnnotatedQuestion) -> Image.Image:
        best = max(truth.confidences, key=truth.confidences.__getitem__, default="unknown")
        texts = [truth.text, f"answer: {prediction.answer}", f"true: {best}"]
        return draw_tile(image, self.processor, texts, lines=[2, 1, 1])[0]

    @staticmethod
    def trivial_baselines(train: TSVFile, test: TSVFile) -> dict[str, float]:
        return blind_answers(train, test, lambda row: (row.values["question"], parse_answers(row)))
