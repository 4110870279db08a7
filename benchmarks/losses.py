"""Cases of the loss over a closed set of answers and of the caption metric."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.compute import short_answers
from benchmarks.measure import Case, Machine, Workload
from criterions.base import AllowedIds
from criterions.label_smoothing import LabelSmoothedCrossEntropy
from ofa.config import OFAConfig
from ofa.generation.prefix_tree import PrefixTree
from ofa.model import OFAModel
from ofa.vocabulary import EOS, PAD
from tasks.metrics.cider import CiderD, DocumentFrequencies


@dataclass(frozen=True)
class ConstrainedLoss(Case):
    """Forward and backward pass of the loss on random decoder states, for answers padded to `tokens`."""

    answers: int = 3129  # of VQA
    model: str = "tiny"
    batch_size: int = 32
    tokens: int = 6

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        torch.manual_seed(0)
        model = OFAModel(OFAConfig.from_name(self.model)).to(machine.device)
        answers = short_answers(self.answers)
        chosen = random.Random(1).sample(answers, self.batch_size)
        rows = [[*answer, EOS] + [PAD] * (self.tokens - 1 - len(answer)) for answer in chosen]
        target = torch.tensor(rows, device=machine.device)
        hidden = torch.randn(*target.shape, model.config.d_model, device=machine.device, requires_grad=True)
        compute_loss = self.build_loss(model, hidden, target, PrefixTree(answers))

        def step() -> Tensor:
            model.zero_grad()
            with machine.autocast():
                mean = compute_loss()
            mean.backward()
            return mean

        return Workload(step, self.batch_size)

    @abstractmethod
    def build_loss(self, model: OFAModel, hidden: Tensor, target: Tensor, tree: PrefixTree) -> Callable[[], Tensor]:
        """A function that computes the mean loss of a token from states [B, T, D] and targets [B, T]."""


@dataclass(frozen=True)
class TreeLoss(ConstrainedLoss):
    """Logits of the tree's tokens at the answers' positions, and the mask, computed in the step."""

    label = "loss over {answers} answers, tree"

    def build_loss(self, model: OFAModel, hidden: Tensor, target: Tensor, tree: PrefixTree) -> Callable[[], Tensor]:
        allowed, criterion = AllowedIds(tree=tree), LabelSmoothedCrossEntropy()

        def mean_loss() -> Tensor:
            targets = allowed.targets(target)
            loss = criterion(model.logits(hidden[targets.valid], targets.ids), targets, step=0)
            return loss.sum / loss.sample_size

        return mean_loss


@dataclass(frozen=True)
class MaskedLoss(ConstrainedLoss):
    """The published way: logits [B, T, V], masked to the next tokens. The mask is made before the step."""

    label = "loss over {answers} answers, masked vocabulary"

    def build_loss(self, model: OFAModel, hidden: Tensor, target: Tensor, tree: PrefixTree) -> Callable[[], Tensor]:
        tree = tree.to(target.device)
        allowed = torch.zeros(*target.shape, model.config.vocab_size, dtype=torch.bool, device=target.device)
        allowed[..., tree.tokens] = tree.mask(tree.nodes_along(target))

        def mean_loss() -> Tensor:
            log_p = model.logits(hidden).float().masked_fill(~allowed, -torch.inf).log_softmax(-1)
            valid = target != PAD
            log_p, of_valid = log_p[valid], allowed[valid]
            nll = -log_p.gather(-1, target[valid][:, None])[:, 0]
            eps = 0.1 / (of_valid.sum(-1) - 1 + 1e-6)
            return ((1 - 0.1 - eps) * nll - eps * log_p.masked_fill(~of_valid, 0).sum(-1)).mean()

        return mean_loss


@dataclass(frozen=True)
class CaptionScoring(Case):
    """Counts n-grams of the references and scores captions of 10.5 words on average, on one core."""

    captions: int = 5000
    references: int = 5
    vocabulary: int = 10_000

    label = "CIDEr-D, {references} references a caption"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        rng = np.random.default_rng(0)
        captions = self._random_texts(rng, self.captions)
        references = [self._random_texts(rng, self.references) for _ in captions]

        def score() -> None:
            CiderD(DocumentFrequencies.from_references(references)).scores(captions, references)

        return Workload(score, self.captions, "captions")

    def _random_texts(self, rng: np.random.Generator, count: int) -> list[str]:
        """Texts of 8 to 13 words with word frequencies as in natural text: the i-th is about 1 / i as frequent."""
        texts = []
        for _ in range(count):
            words = self.vocabulary ** rng.random(rng.integers(8, 14))
            texts.append(" ".join(f"word{int(word)}" for word in words))
        return texts
