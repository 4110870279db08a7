"""Visual entailment: does an image, with or without its caption, imply a sentence?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from data.batch import Sample
from data.tsv import Row
from ofa.processors.entailment import ANSWERS, LABELS, EntailmentProcessor
from tasks.closed import Answer, ClosedAnswerTask
from tasks.drawing import draw_tile
from tasks.metrics.entailment import EntailmentAccuracy


@dataclass(frozen=True)
class Entailment:
    """The true answer, as its word, None where the row has no label; and the cleaned sentences."""

    answer: str | None
    hypothesis: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class SNLIVE(EntailmentProcessor, ClosedAnswerTask[Entailment]):
    """SNLI-VE (arXiv 1901.06706), three answers."""

    columns = {"uniq_id": 0, "image": 2, "hypothesis": 3, "caption": 4, "label": 5}  # column 1 is the image's id
    n_columns = 6
    splits = ("val", "test")
    files = {"val": "snli_ve_dev.tsv"}
    answer_column = "label"
    best = "accuracy"

    def encode(self, row: Row, rng: np.random.Generator, train: bool) -> Sample:
        """The prompt around hypothesis and caption, and the label's word.

        Raises:
            RowError: the image does not decode, the hypothesis or a caption that is asked about is empty, the label is
                unknown, or missing in training.
        """
        label = row.values["label"].strip()
        if label not in ANSWERS and (label or train):
            raise row.error(f"the label {label!r} is not one of {', '.join(ANSWERS)}")
        question = self.ask_in_row(row, row.values["hypothesis"], row.values.get("caption"))
        truth = Entailment(ANSWERS.get(label), *question.texts)
        return Sample(
            id=row.values["uniq_id"],
            source=question.source,
            target=[] if truth.answer is None else self.encode_answer(truth.answer, row),
            image=self.open_image(row)[1],
            truth=truth,
            prefix=question.prefix,
            notes=question.notes if label else (*question.notes, "no label: not scored"),
        )

    @property
    def unread_columns(self) -> tuple[str, ...]:
        return () if self.use_caption else ("caption",)

    def format_answer(self, answer: Any) -> str:
        if answer not in self.answers:
            raise ValueError(f"the answer {answer!r} is not one of {', '.join(self.answers)}")
        return LABELS[answer]

    def metric(self) -> EntailmentAccuracy:
        return EntailmentAccuracy(tuple(ANSWERS))

    def score(self, metric: EntailmentAccuracy, prediction: Answer, truth: Entailment) -> None:
        metric.update(
            self.answers.index(prediction.answer), None if truth.answer is None else self.answers.index(truth.answer)
        )

    def details(self, metric: EntailmentAccuracy) -> dict[str, Any]:
        """The confusion matrix, `{true class: {answered class: samples}}`, where anything was scored."""
        return {"confusion": metric.confusion_by_name()} if metric.confusion.any() else {}

    def draw(self, image: Tensor | None, prediction: Answer, truth: Entailment) -> Image.Image:
        texts = [truth.caption, truth.hypothesis]
        answer = f"answer: {prediction.answer}, true: {truth.answer or 'unknown'}"
        return draw_tile(image, self.mean, self.std, [*texts, answer], lines=[2, 2, 1])[0]
