"""Visual question answering, scored against the answers that several people gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from data.answers import parse_answers, read_answers
from data.batch import Sample
from data.tsv import Row
from ofa.errors import UserError
from ofa.generation import GenerationOptions, PrefixTree
from tasks.closed import Answer, ClosedAnswerTask
from tasks.drawing import draw_tile
from tasks.metrics.vqa import VQAScore
from tasks.text import clean_question, cut_words

_MAX_OPEN_ANSWER = 10  # tokens of an answer that is in no list


@dataclass(frozen=True)
class Question:
    """The question as asked, and each answer that people gave with its confidence; none where they are not known."""

    text: str
    confidences: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class VQA(ClosedAnswerTask[Question]):
    """VQA v2 (arXiv 1612.00837).

    Args:
        constrained: give answers of the list alone; false leaves them open.
        answer_list: JSON file of all answers that may be given.
        use_objects: name the objects found in the image behind the question.
        max_objects: how many of them.

    Raises:
        UserError: the list is missing or cannot be read, or all candidates are to be scored without one.
    """

    constrained: bool = True
    answer_list: str | Path | None = None
    use_objects: bool = True
    max_objects: int = 30

    columns = {"uniq_id": 0, "question": 2, "answers": 3, "objects": 4, "image": 5}  # column 1 is the image's id
    n_columns = 6
    splits = ("val", "test")
    answer_column = "answers"
    best = "vqa_score"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.constrained and self.inference == "all_candidates":
            raise UserError("task.constrained=false leaves no candidates to score; set task.inference=beam_search, too")
        if self.constrained and self.answer_list is None:
            raise UserError("task.answer_list=FILE has to be given, the JSON list of all answers")
        _ = self.answers  # reads the list now, before any work starts

    @cached_property
    def answers(self) -> list[str]:
        return read_answers(Path(self.answer_list)) if self.constrained else []

    @cached_property
    def tree(self) -> PrefixTree | None:
        return PrefixTree([self.tokenizer.encode(a) for a in self.answers]) if self.constrained else None

    @property
    def generation(self) -> GenerationOptions:
        if self.tree is None:
            return GenerationOptions(
                beam_size=5, max_len=_MAX_OPEN_ANSWER, max_len_behind_prefix=True, normalize_scores=False
            )
        return super().generation

    def encode(self, row: Row, rng: np.random.Generator, train: bool) -> Sample:
        """The question, with objects, and its answer of highest confidence, which is the sample's weight.

        Raises:
            RowError: the image does not decode, the question is empty, an answer is malformed; in training also a
                question without answer, or one whose answer is not in the list.
        """
        text, cut = cut_words(clean_question, row.values["question"], self.max_words)
        if not text.rstrip("?"):
            raise row.error("the question is empty")
        objects = self._objects(row)
        source, notes = self.encode_prompt(f"{text} object: {' '.join(objects)}" if objects else text)
        notes = (*cut, *notes)
        confidences = parse_answers(row)
        if train and not confidences:
            raise row.error("the question has no answer to learn from")
        answer = max(confidences, key=confidences.__getitem__, default=None)
        return Sample(
            id=row.values["uniq_id"],
            source=source,
            target=self.encode_answer(answer, row) if train else [],
            image=self.open_image(row)[1],
            truth=Question(text, confidences),
            prefix=self.decoder_prompt(source),
            weight=confidences[answer] if train else 1.0,
            notes=notes if confidences else (*notes, "no answer: not scored"),
        )

    def _objects(self, row: Row) -> list[str]:
        if not self.use_objects:
            return []
        names = (name.strip() for name in row.values["objects"].split("&&"))
        return [name for name in names if name][: self.max_objects]

    @property
    def unread_columns(self) -> tuple[str, ...]:
        return () if self.use_objects else ("objects",)

    def answer_cell(self, answer: Any) -> str:
        if not isinstance(answer, str):
            raise ValueError(f"the answer {answer} is not text")
        return f"1.0|!+{answer}"

    def metric(self) -> VQAScore:
        return VQAScore()

    def score(self, metric: VQAScore, prediction: Answer, truth: Question) -> None:
        metric.update(truth.confidences.get(prediction.answer, 0.0) if truth.confidences else None)

    def result(self, uniq_id: str, prediction: Answer, truth: Question) -> dict[str, Any]:
        """The format of the public evaluation server; question ids that are numbers are written as numbers."""
        return {"question_id": int(uniq_id) if uniq_id.isdecimal() else uniq_id, "answer": prediction.answer}

    def draw(self, image: Tensor | None, prediction: Answer, truth: Question) -> Image.Image:
        best = max(truth.confidences, key=truth.confidences.__getitem__, default="unknown")
        texts = [truth.text, f"answer: {prediction.answer}", f"true: {best}"]
        return draw_tile(image, self.mean, self.std, texts, lines=[2, 1, 1])[0]
