"""Image captioning: stage 1 trains on one caption per row, stage 2 on a reward of all references of an image."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.batch import Sample
from data.cells import SEPARATOR, decode_image
from data.demo.rows import DemoRow, Split, caption_rows
from data.layout import CAPTIONS
from data.source import Row, RowError
from data.tsv import TSVFile
from ofa.errors import UserError
from ofa.generation import Hypothesis
from ofa.processors.captioning import CaptionProcessor, without_punctuation
from ofa.vocabulary import EOS
from runtime.progress import progress
from tasks.base import Task, draw_tile
from tasks.baselines import readable
from tasks.metrics.captions import CaptionReport, CaptionScores
from tasks.metrics.cider import CiderD, DocumentFrequencies, with_end

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class References:
    """The image's id, and its reference captions without punctuation; none where they are not known."""

    image_id: str
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Captioned:
    """The predicted caption, and the score of its hypothesis."""

    caption: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Caption(Task[References, Captioned]):
    """Captions of COCO, stage 1. Letters keep their case; the published data are in lower case.

    Args:
        max_target_words: words of a caption that are trained on.
        document_frequencies: the published pickle of n-gram counts for CIDEr-D; null counts them in the references of
            the split that is scored.

    Raises:
        UserError: an impossible setting, or the counts cannot be read.
    """

    processor: CaptionProcessor
    max_target_words: int = 20
    document_frequencies: str | Path | None = None

    processor_class = CaptionProcessor
    columns = {"uniq_id": 0, "image_id": 1, "caption": 2, "image": 4}  # column 3 names objects
    n_columns = 5
    splits = ("val", "test")
    files = {"train": "caption_stage1_train.tsv"}
    answer_column = answer_field = "caption"
    monitor = "cider_d"
    layout = CAPTIONS
    next_task = ("caption_scst", "Continue training with CIDEr-D as the reward:")

    @staticmethod
    def demo_rows(split: Split) -> Iterator[DemoRow]:
        """One caption per row of training, all references in the other splits."""
        return caption_rows(split, all_captions=split.name != "train")

    def __post_init__(self) -> None:
        if self.max_target_words < 1:
            raise UserError(f"task.max_target_words={self.max_target_words} leaves nothing to train on")
        _ = self.frequencies  # reads the file now, before any work starts

    @cached_property
    def frequencies(self) -> DocumentFrequencies | None:
        """The published counts; None: those of the references."""
        return None if self.document_frequencies is None else DocumentFrequencies.from_file(self.document_frequencies)

    def encode(self, row: Row, rng: np.random.Generator, train: bool) -> Sample:
        """The prompt and, in training, the row's one caption; in evaluation all references that the row holds.

        Raises:
            RowError: the image does not decode, or the caption to train on is empty.
        """
        if not train:
            return self.with_references(row, references(row))
        caption = row.values["caption"]
        words = without_punctuation(caption).split()
        if not words:
            raise row.error("the caption is empty")
        notes = []
        if len(words) > self.max_target_words:
            notes.append(f"caption cut to {self.max_target_words} words")
        if SEPARATOR in caption:
            notes.append(f"several captions joined by {SEPARATOR}, trained on as one")
        return self._sample(row, " ".join(words[: self.max_target_words]), (), notes)

    def with_references(self, row: Row, captions: tuple[str, ...]) -> Sample:
        """A sample whose truth is all captions of the row; its target is them joined, as in published batches."""
        notes = [] if captions else ["no reference captions: not scored"]
        return self._sample(row, SEPARATOR.join(captions), captions, notes)

    def _sample(self, row: Row, target: str, captions: tuple[str, ...], notes: list[str]) -> Sample:
        prompt = self.processor.build_prompt()
        return Sample(
            id=row.values["uniq_id"],
            source=prompt.source,
            target=[*self.processor.tokenizer.encode(target), EOS] if target else [],
            image=self.processor.pixels(decode_image(row.values["image"], row)),
            truth=References(row.values["image_id"], captions),
            notes=(*notes, *prompt.notes),
        )

    def decode(self, hypothesis: Hypothesis, truth: References) -> Captioned:
        return Captioned(self.processor.postprocess(hypothesis), hypothesis.score)

    def format_answer(self, answer: Any) -> str:
        if not isinstance(answer, str):
            raise ValueError(f"the caption {answer} is not text")
        if not without_punctuation(answer):
            raise ValueError("the caption is empty")
        return answer

    def metric(self) -> CaptionScores:
        return CaptionScores(self.frequencies)

    def test_metric(self) -> CaptionReport:
        return CaptionReport(self.frequencies)

    def score(self, metric: CaptionScores, prediction: Captioned, truth: References) -> None:
        if truth.captions:
            metric.update(truth.image_id, prediction.caption, list(truth.captions))

    def server_record(self, uniq_id: str, prediction: Captioned, truth: References) -> dict[str, Any]:
        """The format of COCO's caption evaluation; image ids that are numbers are written as numbers."""
        image_id = int(truth.image_id) if truth.image_id.isdecimal() else truth.image_id
        return {"image_id": image_id, "caption": prediction.caption}

    def draw(self, image: Tensor | None, prediction: Captioned, truth: References) -> Image.Image:
        texts = [f"answer: {prediction.caption}", f"true: {next(iter(truth.captions), 'unknown')}"]
        return draw_tile(image, self.processor, texts, lines=[2, 2])[0]

    @staticmethod
    def trivial_baselines(train: TSVFile, test: TSVFile) -> dict[str, float]:
        """The most common caption, and a true caption of another image, that of the next row."""
        known, truths = ([list(c) for c in readable(rows, references).values() if c] for rows in (train, test))
        commonest, _ = Counter(captions[0] for captions in known).most_common(1)[0]
        scorer = CiderD(DocumentFrequencies.from_references(truths))
        others = [captions[0] for captions in truths[1:] + truths[:1]]
        guesses = {"most frequent caption": [commonest] * len(truths), "caption of another image": others}
        return {name: float(scorer.scores(captions, truths).mean()) for name, captions in guesses.items()}


@dataclass(frozen=True, kw_only=True)
class SelfCriticalCaption(Caption):
    """Stage 2: training rows hold all references of an image, too, by which generated captions are rewarded.

    Args:
        reward_document_frequencies: the published pickle of n-gram counts for the reward; null counts them in the
            training references.
    """

    reward_document_frequencies: str | Path | None = None

    starts_from = "caption"
    next_task = None
    demo_rows = staticmethod(partial(caption_rows, all_captions=True))
    reward_columns = ("caption",)
    files = {"train": "caption_stage2_train.tsv", "val": "caption_val.tsv", "test": "caption_test.tsv"}

    def encode(self, row: Row, rng: np.random.Generator, train: bool) -> Sample:
        """The prompt, and all references of the row as its truth.

        Raises:
            RowError: the image does not decode, or in training a row has no reference.
        """
        return self.with_references(row, self.required_references(row) if train else references(row))

    def build_reward(self, rows: Sequence[Row], skip_broken: bool) -> CiderReward:
        """CIDEr-D with the document frequencies of the configured file, or of the references in `rows`."""
        if self.reward_document_frequencies is not None:
            return CiderReward(self, CiderD(DocumentFrequencies.from_file(self.reward_document_frequencies)))
        log.info("counting the n-grams of all training references; task.reward_document_frequencies=FILE saves this")
        found = []
        with progress("reading references", len(rows), "rows") as advance:
            for i in range(len(rows)):
                with suppress(RowError) if skip_broken else nullcontext():
                    found.append([with_end(text) for text in self.required_references(rows[i])])
                advance(1)
        return CiderReward(self, CiderD(DocumentFrequencies.from_references(found)))

    def required_references(self, row: Row) -> tuple[str, ...]:
        """The references of a training row; RowError where there are none."""
        captions = references(row)
        if not captions:
            raise row.error("there is no reference caption for the reward")
        return captions


@dataclass(frozen=True)
class CiderReward:
    task: SelfCriticalCaption
    cider: CiderD

    def __call__(self, hypotheses: Sequence[Hypothesis], truth: References) -> Tensor:
        """[K], CIDEr-D of each of K hypotheses against the references of their image."""
        captions = [with_end(self.task.decode(h, truth).caption) for h in hypotheses]
        references = [with_end(caption) for caption in truth.captions]
        return torch.from_numpy(self.cider.scores(captions, [references] * len(captions))).float()


def references(row: Row) -> tuple[str, ...]:
    """The captions of a row, joined by `&&` in its column, without punctuation; empty ones are left out."""
    captions = map(without_punctuation, row.values["caption"].strip().split(SEPARATOR))
    return tuple(caption for caption in captions if caption)
