"""Referring expressions: from an image and "the small red circle" to the box of the object that is meant."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from data.batch import Sample
from data.boxes import clip_box, parse_box
from data.tsv import Row
from ofa.boxes import Box, has_area
from ofa.generation import Hypothesis
from ofa.processors.grounding import GroundingProcessor
from ofa.vocabulary import EOS
from tasks.drawing import TILE, draw_tile
from tasks.image_task import ImageTask
from tasks.metrics.boxes import BoxAccuracy


@dataclass(frozen=True)
class Region:
    """What was meant: the box in pixels of the original image, that image's size, the cleaned expression."""

    box: Box
    width: int
    height: int
    text: str


@dataclass(frozen=True)
class BoxPrediction:
    """What was found: the box in pixels of the original image and the score of its hypothesis."""

    box: Box
    score: float


@dataclass(frozen=True, kw_only=True)
class RefCOCO(GroundingProcessor, ImageTask[Region, BoxPrediction]):
    """RefCOCO and RefCOCO+."""

    columns = {"uniq_id": 0, "text": 2, "box": 3, "image": 4}  # column 1 is the image's id
    n_columns = 5
    splits = ("val", "testA", "testB")
    answer_column = answer_field = "box"
    best = "acc@0.5"

    def encode(self, row: Row, rng: np.random.Generator, train: bool) -> Sample:
        """The prompt around the expression, and the box as four bins; a box partly outside the image is clipped.

        Raises:
            RowError: the image does not decode, or the box is not four numbers with an area inside the image.
        """
        box = parse_box(row.values["box"], row)
        image, pixels = self.open_image(row)
        box, clipped = clip_box(box, *image.size, row)
        question = self.ask(row.values["text"])
        return Sample(
            id=row.values["uniq_id"],
            source=question.source,
            target=[*self.box_tokens(box, *image.size), EOS],
            image=pixels,
            truth=Region(box, *image.size, *question.texts),
            notes=(*((clipped,) if clipped else ()), *question.notes),
        )

    def decode(self, hypothesis: Hypothesis, truth: Region) -> BoxPrediction:
        return BoxPrediction(self.box(hypothesis, truth.width, truth.height), hypothesis.score)

    def format_answer(self, answer: Any) -> str:
        if not isinstance(answer, list) or len(answer) != 4 or not all(map(_is_number, answer)):
            raise ValueError(f"the box {answer} is not four numbers")
        if not has_area(answer):
            raise ValueError(f"the box {answer} has no area")
        return ",".join(map(str, answer))

    def metric(self) -> BoxAccuracy:
        return BoxAccuracy()

    def score(self, metric: BoxAccuracy, prediction: BoxPrediction, truth: Region) -> None:
        metric.update(torch.tensor([prediction.box]), torch.tensor([truth.box]))

    def draw(self, image: Tensor | None, prediction: BoxPrediction, truth: Region) -> Image.Image:
        """The resized picture with the true box in green and the predicted one in red, the expression above it."""
        picture, top = draw_tile(image, self.mean, self.std, [truth.text], lines=[2])
        pen = ImageDraw.Draw(picture)
        # The true box is the wider one, so that it is seen under a prediction that equals it.
        for box, colour, width in ((truth.box, "lime", 6), (prediction.box, "red", 2)):
            pen.rectangle(_in_tile(box, truth, top), outline=colour, width=width)
        return picture


class RefCOCOg(RefCOCO):
    """The same task with longer expressions and no testA and testB."""

    splits = ("val", "test")


def _is_number(value: Any) -> bool:
    """True and False are ints in Python, but no coordinates."""
    return type(value) in (int, float) and isfinite(value)


def _in_tile(box: Box, truth: Region, top: int) -> Box:
    """The box in pixels of the drawn answer, its corners put in order (a model may write them swapped)."""
    xs = sorted(x * TILE / truth.width for x in box[0::2])
    ys = sorted(top + y * TILE / truth.height for y in box[1::2])
    return xs[0], ys[0], xs[1], ys[1]
