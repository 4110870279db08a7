"""The model's cases: training step, encoder, decoding."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from benchmarks.machine import Machine
from benchmarks.measure import Workload
from criterions.base import AllowedIds
from criterions.label_smoothing import LabelSmoothedCrossEntropy
from ofa.config import OFAConfig
from ofa.generation import GenerationOptions, generate
from ofa.model import OFAModel
from ofa.vocabulary import CODE_OFFSET, UNK
from training.optim import Optim


@dataclass(frozen=True)
class ModelCase:
    """A model with fresh weights and a batch of noise, each sample a picture and a text."""

    image_size: int = 384
    model: str = "tiny"
    batch_size: int = 8
    source_tokens: int = 20

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def prepare(self, machine: Machine, folder: Path) -> Workload: ...

    def build_model(self, machine: Machine, train: bool) -> OFAModel:
        torch.manual_seed(0)
        model = OFAModel(OFAConfig.from_name(self.model)).to(machine.device)
        # Frozen in evaluation: the counter of operations fails at views of trainable weights under no_grad.
        return model.train(train).requires_grad_(train)

    def build_inputs(self, machine: Machine) -> dict[str, Tensor]:
        images = torch.randn(self.batch_size, 3, self.image_size, self.image_size, device=machine.device)
        return {"input_ids": self.random_text(self.source_tokens, machine), "patch_images": images}

    def random_text(self, length: int, machine: Machine) -> Tensor:
        return torch.randint(UNK + 1, CODE_OFFSET, (self.batch_size, length), device=machine.device)


@dataclass(frozen=True)
class TrainingStep(ModelCase):
    """Forward, label-smoothed loss over the vocabulary, backward, clipping, AdamW."""

    target_tokens: int = 20

    @property
    def name(self) -> str:
        return f"training step, {self.image_size} px"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        model = self.build_model(machine, train=True)
        inputs = self.build_inputs(machine)
        previous, target = (self.random_text(self.target_tokens, machine) for _ in range(2))
        criterion = LabelSmoothedCrossEntropy()
        optimizer = Optim(lr=1e-4).optimizer(model)

        def step() -> None:
            optimizer.zero_grad()
            with machine.autocast():
                decoded = model.decoder(previous, model.encoder(**inputs))
                targets = AllowedIds().targets(target)
                loss = criterion(model.logits(decoded.last_hidden_state[targets.valid]), targets, step=0)
            (loss.sum / loss.sample_size).backward()
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        return Workload(step, self.batch_size)


@dataclass(frozen=True)
class Encoding(ModelCase):
    """The encoder in evaluation mode."""

    @property
    def name(self) -> str:
        return f"encoder, {self.image_size} px"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        encoder = self.build_model(machine, train=False).encoder
        inputs = self.build_inputs(machine)

        def encode() -> None:
            with torch.no_grad(), machine.autocast():
                encoder(**inputs)

        return Workload(encode, self.batch_size)


@dataclass(frozen=True)
class Decoding(ModelCase):
    """Beam search for exactly `tokens` tokens, once the encoder has run; `kind` says what they are."""

    kind: str = "tokens"
    tokens: int = 16
    beams: int = 5
    constraint_range: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return f"decoding, {self.image_size} px, {self.beams} beams x {self.tokens} {self.kind}"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        model = self.build_model(machine, train=False)
        inputs = self.build_inputs(machine)
        options = GenerationOptions(
            beam_size=self.beams, max_len=self.tokens, min_len=self.tokens, constraint_range=self.constraint_range
        )
        with torch.no_grad(), machine.autocast():
            encoded = model.encoder(**inputs)
        model.encoder.forward = lambda **_: encoded  # an encoder that takes no time

        def decode() -> None:
            with machine.autocast():
                generate(model, inputs, options)

        return Workload(decode, self.batch_size)
