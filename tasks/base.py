"""The base of all tasks.

A task knows one row and one hypothesis, nothing of batches, training or processes. Truth and prediction are frozen
dataclasses: `decode`, `score` and `draw` receive the sample's truth; predictions.jsonl holds the prediction's fields.
"""

from __future__ import annotations

import dataclasses
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchmetrics import Metric

from data.batch import Sample
from data.demo.rows import DemoRow, Split
from data.demo.scenes import SceneConfig
from data.layout import Layout
from data.source import Row
from data.tsv import TSVFile
from ofa.config import did_you_mean
from ofa.errors import UserError
from ofa.generation import Hypothesis
from ofa.processors import ImageProcessor
from ofa.tokenizer import Tokenizer

Truth = TypeVar("Truth")
Prediction = TypeVar("Prediction")

TILE = 256  # pixels, side of the image in a drawn answer
_LINE, _LETTERS = 15, 40  # pixels of a line of text, letters that fit in it


@dataclass(frozen=True, kw_only=True)
class Task(ABC, Generic[Truth, Prediction]):
    """One task: columns to prompt and target, hypothesis to prediction, prediction to score.

    Attributes, which every task declares:
        processor: the model's side of the task, a `processor_class`.
        columns: name and position, from 0, of each column the task reads in the published files.
        n_columns: columns of the published files, including those that are not read.
        splits: the evaluation splits, in addition to "train"; the first is the one validation uses during training.
        answer_column: the column that holds the answer to train on.
        answer_field: the field of a prediction that is the answer.
        monitor: the name, among those `metric().compute()` returns, of the number to maximize.

    Attributes, which a task may declare:
        files: the published file of a split, where its name is not `<task>_<split>.tsv`.
        layout: all columns of a file and their checks, for `data.prepare` and `data.inspect`.
        demo_rows: the rows of a split of generated scenes, for data=demo.
        demo_answers: the closed set of answers to the demo's rows, which is written to answers.json.
        trivial_baselines: what guesses score by the `monitor` metric on demo files: (training, test) -> score by name.
        reward_columns: the columns that `build_reward` reads; none: the task gives no rewards.
        starts_from: the task whose trained model this one has to start from (`init=`).
        next_task: a task to continue with after training, and a line about its purpose.
    """

    processor: ImageProcessor

    processor_class: ClassVar[type[ImageProcessor]]
    columns: ClassVar[Mapping[str, int]]
    n_columns: ClassVar[int]
    splits: ClassVar[tuple[str, ...]]
    answer_column: ClassVar[str]
    answer_field: ClassVar[str]
    monitor: ClassVar[str]

    files: ClassVar[Mapping[str, str]] = {}
    layout: ClassVar[Layout | None] = None
    demo_rows: ClassVar[Callable[[Split], Iterator[DemoRow]] | None] = None
    demo_answers: ClassVar[Callable[[SceneConfig], list[str]] | None] = None
    trivial_baselines: ClassVar[Callable[[TSVFile, TSVFile], dict[str, float]] | None] = None
    reward_columns: ClassVar[tuple[str, ...]] = ()
    starts_from: ClassVar[str | None] = None
    next_task: ClassVar[tuple[str, str] | None] = None

    @classmethod
    def build(cls, tokenizer: Tokenizer, **settings: Any) -> Task[Truth, Prediction]:
        """The task and its processor, of the flat settings in configs/task.

        Raises:
            SettingError, UserError: an unknown setting, or an impossible value.
        """
        own, of_processor = (
            {field.name for field in dataclasses.fields(kind)} - {"processor", "tokenizer"}
            for kind in (cls, cls.processor_class)
        )
        for name in settings.keys() - own - of_processor:
            raise UserError(f"task.{name} is not a setting of {cls.__name__}{did_you_mean(name, own | of_processor)}")
        processor = cls.processor_class(tokenizer=tokenizer, **{k: v for k, v in settings.items() if k in of_processor})
        return cls(processor=processor, **{k: v for k, v in settings.items() if k in own})

    @property
    def unused_columns(self) -> tuple[str, ...]:
        """Those of `columns` that are not read with these settings, which a file does not have to contain."""
        return ()

    @abstractmethod
    def encode(self, row: Row, rng: np.random.Generator, train: bool) -> Sample:
        """Converts a row to ids, image and truth; `rng` is for tasks that draw captions or augmentations.

        In evaluation a row may lack a truth: its prediction is written and not scored.

        Raises:
            RowError: the row cannot be used.
        """

    @abstractmethod
    def decode(self, hypothesis: Hypothesis, truth: Truth) -> Prediction:
        """The prediction in the best hypothesis for a sample."""

    @abstractmethod
    def format_answer(self, answer: Any) -> str:
        """A predicted answer, as predictions.jsonl holds it in `answer_field`, in the format of `answer_column`.

        Raises:
            ValueError: it is not such an answer.
        """

    @abstractmethod
    def metric(self) -> Metric:
        """A new, empty metric, whose `compute` returns numbers by name."""

    def test_metric(self) -> Metric:
        """The metric of the final test, where it computes more than that of the validations during training."""
        return self.metric()

    @abstractmethod
    def score(self, metric: Metric, prediction: Prediction, truth: Truth) -> None:
        """Counts one sample in a metric made by `metric`."""

    @abstractmethod
    def draw(self, image: Tensor | None, prediction: Prediction, truth: Truth) -> Image.Image:
        """A drawn prediction, of the same size for every sample; image [3, h, w] or None."""

    def build_reward(self, rows: Sequence[Row], skip_broken: bool) -> Callable[[Sequence[Hypothesis], Truth], Tensor]:
        """A function of K hypotheses for a sample and its truth that returns their rewards, [K].

        `rows` are the training rows, with `reward_columns` only.

        Raises:
            RowError: a row is broken, without `skip_broken`, which leaves it out.
        """
        raise NotImplementedError(f"{type(self).__name__} has no reward_columns")

    def server_record(self, uniq_id: str, prediction: Prediction, truth: Truth) -> dict[str, Any] | None:
        """A prediction in the format of the task's public evaluation server, its id first; None where there is none."""
        return None

    def details(self, metric: Metric) -> dict[str, Any]:
        """What a metric holds in addition to its numbers, such as a confusion matrix, as JSON values."""
        return {}


def draw_tile(
    image: Tensor | None, processor: ImageProcessor, texts: Sequence[str], lines: Sequence[int]
) -> tuple[Image.Image, int]:
    """An image with texts above it, and the height in pixels at which the image begins.

    Args:
        image: [3, h, w], as the processor normalized it; None leaves its place white.
        texts: each begins on a line of its own and is cut where its lines are full.
        lines: how many lines each text may fill. The size of the tile follows from these only.
    """
    top = 4 + _LINE * sum(lines)
    tile = Image.new("RGB", (TILE, top + TILE), "white")
    if image is not None:
        colors = image.permute(1, 2, 0).float().cpu() * torch.tensor(processor.std) + torch.tensor(processor.mean)
        pixels = (colors.clamp(0, 1) * 255).round().byte().numpy()
        tile.paste(Image.fromarray(pixels).resize((TILE, TILE)), (0, top))
    pen, y = ImageDraw.Draw(tile), 2
    for text, room in zip(texts, lines, strict=True):
        pen.text((4, y), textwrap.fill(text, width=_LETTERS, max_lines=room), fill="black")
        y += _LINE * room
    return tile, top
