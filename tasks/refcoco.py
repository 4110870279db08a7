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
from data.boxes import Box, clip_box, has_area, parse_box
from data.images import resize_ratios
from data.tsv import Row
from ofa.errors import UserError
from ofa.generation import GenerationOptions, Hypothesis
from ofa.vocabulary import BIN_OFFSET, BINS, EOS, N_BINS
from tasks.boxes import bins_to_boxes, boxes_to_bins
from tasks.drawing import TILE, draw_tile
from tasks.image_task import ImageTask
from tasks.metrics.boxes import BoxAccuracy
from tasks.text import clean_caption, cut_words

_PROMPT = 'which region does the text " {text} " describe?'
_BOX_TOKENS = 4


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
class RefCOCO(ImageTask[Region, BoxPrediction]):
    """RefCOCO and RefCOCO+.

    Args:
        max_image_size: pixels that bin 999 stands for. The published weights were trained with 512 for both; another
            image size moves both, or part of the bins could never be used.
        max_words: words of an expression that are read, the "source length" of the published recipes.

    Raises:
        UserError: image_size and max_image_size differ.
    """

    image_size: int = 512
    max_image_size: int = 512
    max_words: int = 80

    columns = {"uniq_id": 0, "text": 2, "box": 3, "image": 4}  # column 1 is the image's id
    n_columns = 5
    splits = ("val", "testA", "testB")
    answer_column = answer_field = "box"
    best = "acc@0.5"
    fixed_generation = ("max_len", "min_len")  # a box is four bins

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size != self.max_image_size:
            raise UserError(
                f"task.image_size is {self.image_size} but task.max_image_size is {self.max_image_size}, "
                "so boxes and bins would not cover the same range; set both to the same number of pixels"
            )

    @property
    def generation(self) -> GenerationOptions:
        """Beam search for exactly four of the bins."""
        return GenerationOptions(beam_size=5, max_len=_BOX_TOKENS, min_len=_BOX_TOKENS, constraint_range=BINS)

    def encode(self, row: Row, rng: np.random.Generator, train: bool) -> Sample:
        """The prompt around the expression, and the box as four bins; a box partly outside the image is clipped.

        Raises:
            RowError: the image does not decode, or the box is not four numbers with an area inside the image.
        """
        box = parse_box(row.values["box"], row)
        image, pixels = self.open_image(row)
        box, clipped = clip_box(box, *image.size, row)
        text, cut = cut_words(clean_caption, row.values["text"], self.max_words)
        source, notes = self.encode_prompt(_PROMPT.format(text=text))
        truth = Region(box, *image.size, text)
        bins = boxes_to_bins(torch.tensor(box), self._resize_ratio(truth), self.max_image_size)
        return Sample(
            id=row.values["uniq_id"],
            source=source,
            target=[*(bins + BIN_OFFSET).tolist(), EOS],
            image=pixels,
            truth=truth,
            notes=(*((clipped,) if clipped else ()), *cut, *notes),
        )

    def decode(self, hypothesis: Hypothesis, truth: Region) -> BoxPrediction:
        """The box that the hypothesis' first four tokens write.

        Raises:
            UserError: they are not four bins, because the generation options were changed so.
        """
        bins = [token - BIN_OFFSET for token in hypothesis.tokens[:_BOX_TOKENS]]
        if len(bins) < _BOX_TOKENS or not all(0 <= number < N_BINS for number in bins):
            raise UserError(
                f"the tokens {hypothesis.tokens} are not a box of {_BOX_TOKENS} bins; "
                f"generate with max_len and min_len {_BOX_TOKENS} and constraint_range {BINS}"
            )
        box = bins_to_boxes(torch.tensor(bins), self._resize_ratio(truth), self.max_image_size)
        return BoxPrediction(tuple(box.tolist()), hypothesis.score)

    def answer_cell(self, answer: Any) -> str:
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

    def _resize_ratio(self, truth: Region) -> tuple[float, float]:
        return resize_ratios(self.image_size, truth.width, truth.height)


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
