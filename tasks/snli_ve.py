"""Visual entailment: whether an image, with or without its caption, implies a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from data.batch import Sample
from data.cells import decode_image
from data.demo.rows import entailment_rows
from data.layout import ENTAILMENT
from data.source import Row
from data.tsv import TSVFile
from ofa.processors.entailment import ANSWERS, LABELS, EntailmentProcessor
from tasks.base import draw_tile
from tasks.baselines import blind_answers
from tasks.closed import Answer, ClosedAnswerTask
from tasks.metrics.accuracy import EntailmentAccuracy


@dataclass(frozen=True)
class Entailment:
    """The true answer, None where the row has no label, and the cleaned sentences."""

    answer: str | None
    hypothesis: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class SNLIVE(ClosedAnswerTask[Entailment]):
    """SNLI-VE (arXiv 1901.06706), three answers."""

    processor: EntailmentProcessor

    processor_class = EntailmentProcessor
    columns = {"uniq_id": 0, "image": 2, "hypothesis": 3, "caption": 4, "label": 5}  # column 1 is the image's id
    n_columns = 6
    splits = ("val", "test")
    files = {"val": "snli_ve_dev.tsv"}
    answer_column = "label"
    monitor = "accuracy"
    layout = ENTAILMENT
    demo_rows = staticmethod(entailment_rows)

    def encode(self, row: Row, rng: np.random.Generator, train: bool) -> Sample:
        """The prompt around hypothesis and caption, and the answer of the label.

        Raises:
            RowError: the image does not decode, the hypothesis or a caption that is used is empty, the label is
                unknown, or missing in training.
        """
        label = row.values["label"].strip()
        if label not in ANSWERS and (label or train):
            raise row.error(f"the label {label!r} is not one of {', '.join(ANSWERS)}")
        prompt = self.build_prompt(row, row.values["hypothesis"], row.values.get("caption"))
        truth = Entailment(ANSWERS.get(label), *prompt.texts)
        return Sample(
            id=row.values["uniq_id"],
            source=prompt.source,
            target=[] if truth.answer is None else self.encode_answer(truth.answer, row),
            image=self.processor.pixels(decode_image(row.values["image"], row)),
            truth=truth,
            prefix=prompt.prefix,
            notes=prompt.notes if label else (*prompt.notes, "no label: not scored"),
        )

    @property
    def unused_columns(self) -> tuple[str, ...]:
        return () if self.processor.use_caption else ("caption",)

    def format_answer(self, answer: Any) -> str:
        if answer not in self.processor.answers:
            raise ValueError(f"the answer {answer!r} is not one of {', '.join(self.processor.answers)}")
        return LABELS[answer]

    def metric(self) -> EntailmentAccuracy:
        return EntailmentAccuracy(tuple(ANSWERS))

    def score(self, metric: EntailmentAccuracy, prediction: Answer, truth: Entailment) -> None:
        index = self.processor.answers.index
        metric.update(index(prediction.answer), None if truth.answer is None else index(truth.answer))

    def details(self, metric: EntailmentAccuracy) -> dict[str, Any]:
        """The confusion matrix, `{true class: {answered class: samples}}`, where samples were scored."""
        return {"confusion": metric.confusion_by_name()} if metric.confusion.any() else {}

    def draw(self, image: Tensor | None, prediction: Answer, truth: Entailment) -> Image.Image:
        answer = f"answer: {prediction.answer}, true: {truth.answer or 'unknown'}"
        return draw_tile(image, self.processor, [truth.caption, truth.hypothesis, answer], lines=[2, 2, 1])[0]

    @staticmethod
    def trivial_baselines(train: TSVFile, test: TSVFile) -> dict[str, float]:
        return blind_answers(train, test, lambda row: (row.values["hypothesis"], {row.values["label"]: 1.0}))
