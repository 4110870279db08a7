"""Cases of the model: training step, encoder, decoding, scoring of a closed set."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from benchmarks.measure import Case, Machine, Workload
from criterions.base import AllowedIds
from criterions.label_smoothing import LabelSmoothedCrossEntropy
from ofa.config import OFAConfig
from ofa.generation import GenerationOptions, PrefixTree, generate, score_candidates
from ofa.model import OFAModel
from ofa.vocabulary import CODE_OFFSET, UNK
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
