"""Cases of the model, of the loss over a closed set of answers, and of the caption metric."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from benchmarks.measure import Case, Machine, Workload
from criterions.base import AllowedIds
from criterions.label_smoothing import LabelSmoothedCrossEntropy
from ofa.config import OFAConfig
from ofa.generation import GenerationOptions, PrefixTree, generate, score_candidates
from ofa.model import OFAModel
from ofa.vocabulary import CODE_OFFSET, EOS, PAD, UNK
from tasks.metrics.cider import CiderD, DocumentFrequencies
from training.optim import Optim


@dataclass(frozen=True)
class ModelCase(Case):
    """A newly initialised model and a batch of noise, each sample an image and a text."""

    image_size: int = 384
    model: str = "tiny"
    batch_size: int = 8
    source_tokens: int = 20

    def build_model(self, machine: Machine, train: bool) -> OFAModel:
        torch.manual_seed(0)
        model = OFAModel(OFAConfig.from_name(self.model)).to(machine.device)
        # Frozen in evaluation: the operation counter fails at views of trainable weights under no_grad.
        return model.train(train).requires_grad_(train)

    def build_inputs(self, machine: Machine) -> dict[str, Tensor]:
        images = torch.randn(self.batch_size, 3, self.image_size, self.image_size, device=machine.device)
        return {"input_ids": self.random_text(self.source_tokens, machine), "patch_images": images}

    def random_text(self, length: int, machine: Machine) -> Tensor:
        return torch.randint(UNK + 1, CODE_OFFSET, (self.batch_size, length), device=machine.device)

    def build_encoded(self, machine: Machine) -> tuple[OFAModel, dict[str, Tensor]]:
        """A model in evaluation mode and inputs, whose encoding is computed once, so that it takes no time."""
        model, inputs = self.build_model(machine, train=False), self.build_inputs(machine)
        with torch.no_grad(), machine.autocast():
            encoded = model.encoder(**inputs)
        model.encoder.forward = lambda **_: encoded
        return model, inputs


def training_step(module: nn.Module, optim: Optim, forward: Callable[[], Any], machine: Machine) -> Callable[[], None]:
    """A function that takes one step: forward pass to a criterion's loss, backward pass, clipping, AdamW."""
    optimizer = optim.optimizer(module)

    def step() -> None:
        optimizer.zero_grad()
        with machine.autocast():
            loss = forward()
        (loss.sum / loss.sample_size).backward()
        clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()

    return step


@dataclass(frozen=True)
class TrainingStep(ModelCase):
    """Forward, label-smoothed loss over the vocabulary, backward, clipping, AdamW."""

    target_tokens: int = 20

    label = "training step, {image_size} px"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        model, inputs = self.build_model(machine, train=True), self.build_inputs(machine)
        previous, target = (self.random_text(self.target_tokens, machine) for _ in range(2))
        criterion = LabelSmoothedCrossEntropy()

        def forward() -> Any:
            decoded = model.decoder(previous, model.encoder(**inputs))
            targets = AllowedIds().targets(target)
            return criterion(model.logits(decoded.last_hidden_state[targets.valid]), targets, step=0)

        return Workload(training_step(model, Optim(lr=1e-4), forward, machine), self.batch_size)


@dataclass(frozen=True)
class Encoding(ModelCase):
    """The encoder in evaluation mode."""

    label = "encoder, {image_size} px"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        encoder, inputs = self.build_model(machine, train=False).encoder, self.build_inputs(machine)

        def encode() -> None:
            with torch.no_grad(), machine.autocast():
                encoder(**inputs)

        return Workload(encode, self.batch_size)


@dataclass(frozen=True)
class Decoding(ModelCase):
    """Beam search for exactly `tokens` tokens, without the encoder; `kind` names them in the report."""

    kind: str = "tokens"
    tokens: int = 16
    beams: int = 5
    constraint_range: tuple[int, int] | None = None

    label = "decoding, {image_size} px, {beams} beams x {tokens} {kind}"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        model, inputs = self.build_encoded(machine)
        options = GenerationOptions(
            beam_size=self.beams, max_len=self.tokens, min_len=self.tokens, constraint_range=self.constraint_range
        )

        def decode() -> None:
            with machine.autocast():
                generate(model, inputs, options)

        return Workload(decode, self.batch_size)


@dataclass(frozen=True)
class Candidates(ModelCase):
    """Log-probabilities of all answers of a closed set after a prompt, without the encoder.

    To be compared with the encoder's time for the same batch.
    """

    image_size: int = 480
    answers: int = 3129
    prompt_tokens: int = 10

    label = "scoring, {image_size} px, {answers} answers"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        model, inputs = self.build_encoded(machine)
        prompt = self.random_text(self.prompt_tokens, machine)
        tree = PrefixTree(short_answers(self.answers))

        def score() -> None:
            with machine.autocast():
                score_candidates(model, inputs, tree, prompt)

        return Workload(score, self.batch_size)


def short_answers(n: int) -> list[list[int]]:
    """Token ids of n answers with about the lengths of VQA's: two thirds of one token, the others of 2 to 4.

    There are as many first tokens as longer answers, some far more frequent than others; most are answers themselves.
    """
    rng = random.Random(0)
    words = range(UNK + 1, UNK + 1 + n)
    n_short = n - n // 3
    answers = {(word,) for word in words[:n_short]}
    first = words[n_short // 2 : n_short // 2 + n // 3]
    while len(answers) < n:
        length = rng.choices((2, 3, 4), (6, 3, 1))[0]
        begin = first[int(len(first) * rng.random() ** 2)]
        # Few second tokens, so that longer answers share more than the first.
        second = rng.choice(words[:10])
        answers.add((begin, second, *rng.choices(words, k=length - 2)))
    return [list(answer) for answer in answers]


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
