"""The caption metric's case: CIDEr-D of a validation set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import Machine
from benchmarks.measure import Workload
from tasks.metrics.cider import CiderD, DocumentFrequencies


@dataclass(frozen=True)
class CaptionScoring:
    """N-grams counted in the references, and captions of 10.5 words scored by them; uses one core."""

    captions: int = 5000
    references: int = 5
    vocabulary: int = 10_000

    @property
    def name(self) -> str:
        return f"CIDEr-D, {self.references} references a caption"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        rng = np.random.default_rng(0)
        captions = self._random_texts(rng, self.captions)
        references = [self._random_texts(rng, self.references) for _ in captions]

        def score() -> None:
            CiderD(DocumentFrequencies.from_references(references)).scores(captions, references)

        return Workload(score, self.captions, "captions")

    def _random_texts(self, rng: np.random.Generator, count: int) -> list[str]:
        """8 to 13 words each, the i-th of which is about 1 / i as frequent as the first, as in natural text."""
        texts = []
        for _ in range(count):
            words = self.vocabulary ** rng.random(rng.integers(8, 14))
            texts.append(" ".join(f"word{int(word)}" for word in words))
        return texts
