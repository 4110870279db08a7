"""The loss over a closed set of answers: over the tree's tokens, and over the vocabulary masked as published."""

from __future__ import annotations

import random
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.candidates import short_answers
from benchmarks.machine import Machine
from benchmarks.measure import Workload
from criterions.base import AllowedIds
from criterions.label_smoothing import LabelSmoothedCrossEntropy
from ofa.config import OFAConfig
from ofa.generation.prefix_tree import PrefixTree
from ofa.model import OFAModel
from ofa.vocabulary import EOS, PAD


@dataclass(frozen=True)
class ConstrainedLoss:
    """Forward and backward pass of the loss on decoder states of noise, answers padded to `tokens`."""

    answers: int = 3129  # of VQA
    model: str = "tiny"
    batch_size: int = 32
    tokens: int = 6

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def prepare(self, machine: Machine, folder: Path) -> Workload: ...

    def build_model(self, machine: Machine) -> OFAModel:
        torch.manual_seed(0)
        return OFAModel(OFAConfig.from_name(self.model)).to(machine.device)

    def build_target(self, answers: list[list[int]], machine: Machine) -> Tensor:
        """[B, T], a batch of the answers."""
        chosen = random.Random(1).sample(answers, self.batch_size)
        rows = [[*answer, EOS] + [PAD] * (self.tokens - 1 - len(answer)) for answer in chosen]
        return torch.tensor(rows, device=machine.device)

    def build_states(self, model: OFAModel, machine: Machine) -> Tensor:
        """[B, T, D]."""
        shape = (self.batch_size, self.tokens, model.config.d_model)
        return torch.randn(shape, device=machine.device, requires_grad=True)


@dataclass(frozen=True)
class TreeLoss(ConstrainedLoss):
    """Ours: logits of the tree's tokens at the answers' places, and the mask, made in the step."""

    @property
    def name(self) -> str:
        return f"loss over {self.answers} answers, tree"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        model, answers = self.build_model(machine), short_answers(self.answers)
        target, hidden = self.build_target(answers, machine), self.build_states(model, machine)
        allowed, criterion = AllowedIds(tree=PrefixTree(answers)), LabelSmoothedCrossEntropy()

        def step() -> Tensor:
            model.zero_grad()
            with machine.autocast():
                targets = allowed.targets(target)
                loss = criterion(model.logits(hidden[targets.valid], targets.ids), targets, step=0)
            mean = loss.sum / loss.sample_size
            mean.backward()
            return mean

        return Workload(step, self.batch_size)


@dataclass(frozen=True)
class MaskedLoss(ConstrainedLoss):
    """The published way: logits [B, T, V] masked to the next tokens. Its mask is made before, by the data loader."""

    @property
    def name(self) -> str:
        return f"loss over {self.answers} answers, masked vocabulary"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        model, answers = self.build_model(machine), short_answers(self.answers)
        target, hidden = self.build_target(answers, machine), self.build_states(model, machine)
        tree = PrefixTree(answers).to(target.device)
        allowed = torch.zeros(*target.shape, model.config.vocab_size, dtype=torch.bool, device=machine.device)
        allowed[..., tree.tokens] = tree.mask(tree.nodes_along(target))

        def step() -> Tensor:
            model.zero_grad()
            with machine.autocast():
                mean = masked_loss(model.logits(hidden), target, allowed, smoothing=0.1)
            mean.backward()
            return mean

        return Workload(step, self.batch_size)


def masked_loss(logits: Tensor, target: Tensor, allowed: Tensor, smoothing: float) -> Tensor:
    """Label-smoothed loss of a token, the mean over target [B, T], from logits and allowed ids [B, T, V]."""
    log_p = logits.float().masked_fill(~allowed, -torch.inf).log_softmax(-1)
    valid = target != PAD
    log_p, target, allowed = log_p[valid], target[valid], allowed[valid]
    nll = -log_p.gather(-1, target[:, None])[:, 0]
    eps = smoothing / (allowed.sum(-1) - 1 + 1e-6)
    return ((1 - smoothing - eps) * nll - eps * log_p.masked_fill(~allowed, 0).sum(-1)).mean()
