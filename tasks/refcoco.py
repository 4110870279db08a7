"""Referring expressions: from an image and "the small red circle" to the box of that object."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from data.batch import Sample
from data.cells import clip_box, decode_image, parse_box
from data.demo.rows import grounding_rows
from data.demo.source import read_scenes
from data.layout import REFERRING
from data.source import Row
from data.tsv import TSVFile
from ofa.generation import Hypothesis
from ofa.images import Box, box_iou, has_area
from ofa.processors.grounding import GroundingProcessor
from ofa.vocabulary import EOS
from tasks.base import TILE, Task, draw_tile
from tasks.baselines import readable
from tasks.metrics.accuracy import BoxAccuracy


@dataclass(frozen=True)
class Region:
    """The true box in pixels of the original image, that image's size, and the cleaned expression."""

    box: Box
    width: int
    height: int
    text: str


@dataclass(frozen=True)
class BoxPrediction:
    """The predicted box in pixels of the original image, and the score of its hypothesis."""

    box: Box
    score: float


@dataclass(frozen=True, kw_only=True)
class RefCOCO(Task[Region, BoxPrediction]):
    """RefCOCO and RefCOCO+."""

    processor: GroundingProcessor

    processor_class = GroundingProcessor
    columns = {"uniq_id": 0, "text": 2, "box": 3, "image": 4}  # column 1 is the image's id
    n_columns = 5
    splits = ("val", "testA", "testB")
    answer_column = answer_field = "box"
    monitor = "acc@0.5"
    layout = REFERRING
    demo_rows = staticmethod(grounding_rows)

    def encode(self, row: Row, rng: np.random.Generator, train: bool) -> Sample:
        """The prompt around the expression, and the box as four bins; a box partly outside the image is clipped.

        Raises:
            RowError: the image does not decode, or the box is not four numbers with an area inside the image.
        """
        box = parse_box(row.values["box"], row)
        image = decode_image(row.values["image"], row)
        box, clipped = clip_box(box, *image.size, row)
        prompt = self.processor.build_prompt(row.values["text"])
        return Sample(
            id=row.values["uniq_id"],
            source=prompt.source,
            target=[*self.processor.encode_box(box, *image.size), EOS],
            image=self.processor.pixels(image),
            truth=Region(box, *image.size, *prompt.texts),
            notes=(*((clipped,) if clipped else ()), *prompt.notes),
        )

    def decode(self, hypothesis: Hypothesis, truth: Region) -> BoxPrediction:
        return BoxPrediction(self.processor.postprocess(hypothesis, truth.width, truth.height), hypothesis.score)

    def format_answer(self, answer: Any) -> str:
        # True and False are ints in Python, but not coordinates.
        is_box = isinstance(answer, list) and len(answer) == 4 and all(type(x) in (int, float) for x in answer)
        if not is_box or not all(map(isfinite, answer)):
            raise ValueError(f"the box {answer} is not four numbers")
        if not has_area(answer):
            raise ValueError(f"the box {answer} has no area")
        return ",".join(map(str, answer))

    def metric(self) -> BoxAccuracy:
        return BoxAccuracy()

    def score(self, metric: BoxAccuracy, prediction: BoxPrediction, truth: Region) -> None:
        metric.update(torch.tensor([prediction.box]), torch.tensor([truth.box]))

    def draw(self, image: Tensor | None, prediction: BoxPrediction, truth: Region) -> Image.Image:
        """The resized image with the true box in green and the predicted one in red, the expression above it."""
        tile, top = draw_tile(image, self.processor, [truth.text], lines=[2])
        pen = ImageDraw.Draw(tile)
        # The true box has the wider line, to be visible under a prediction that equals it.
        for box, colour, width in ((truth.box, "lime", 6), (prediction.box, "red", 2)):
            # A model may write the corners swapped.
            x0, x1 = sorted(x * TILE / truth.width for x in box[0::2])
            y0, y1 = sorted(top + y * TILE / truth.height for y in box[1::2])
            pen.rectangle((x0, y0, x1, y1), outline=colour, width=width)
        return tile

    @staticmethod
    def trivial_baselines(train: TSVFile, test: TSVFile) -> dict[str, float]:
        """The most common box, and any object of the scene without reading the text (the expected accuracy)."""
        boxes, truths = (readable(rows, lambda row: parse_box(row.values["box"], row)) for rows in (train, test))
        commonest, _ = Counter(boxes.values()).most_common(1)[0]
        scenes = read_scenes(test.path)
        random_object = [_accuracy(scenes[i].boxes, [truth] * len(scenes[i].boxes)) for i, truth in truths.items()]
        return {
            "most frequent box": _accuracy([commonest] * len(truths), list(truths.values())),
            "random object": sum(random_object) / len(random_object),
        }


class RefCOCOg(RefCOCO):
    """The same task with longer expressions and no testA and testB."""

    splits = ("val", "test")


def _accuracy(guesses: list[Box], truths: list[Box]) -> float:
    return (box_iou(torch.tensor(guesses), torch.tensor(truths)) >= 0.5).float().mean().item()
