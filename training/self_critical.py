"""The self-critical training step: generate, reward, minimize."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from criterions.base import Loss
from data.batch import Batch
from ofa.errors import UserError
from ofa.generation import Hypothesis
from ofa.padding import pad
from ofa.vocabulary import BOS
from training.module import TrainingModule


class SelfCriticalModule(TrainingModule):
    """Trains on rewards of the hypotheses of a beam search.

    Args:
        *parts, **options: as for TrainingModule.
        reward: of the K hypotheses for a sample, given its truth: [K].

    Raises:
        UserError: a beam of one hypothesis, which has no rival to be compared with.
    """

    def __init__(self, *parts: Any, reward: Callable[[list[Hypothesis], Any], Tensor], **options: Any) -> None:
        super().__init__(*parts, **options)
        if self.generation.beam_size < 2:
            raise UserError(
                f"generation.beam_size={self.generation.beam_size}: self-critical training compares the hypotheses for "
                "a sample with each other; set at least 2"
            )
        self.reward = reward

    def loss(self, batch: Batch) -> Loss:
        with self.evaluation_mode():
            hypotheses = self.generate(batch)
        rewards = torch.stack([self.reward(*pair) for pair in zip(hypotheses, batch.truths, strict=True)])
        rows = [h.tokens for found in hypotheses for h in found]
        target, previous = pad(rows), pad([[BOS, *tokens[:-1]] for tokens in rows])
        # Encoded once: repeating an image would change neither its states nor the statistics of a batch norm.
        encoded = self.model.encoder(batch.input_ids, batch.patch_images, batch.patch_masks)
        encoded = encoded.repeat_interleave(self.generation.beam_size)
        hidden = self.model.decoder(previous.to(self.device), encoded).last_hidden_state
        targets = self.allowed.targets(target.to(self.device))
        logits = self.model.logits(hidden[targets.valid], targets.ids)
        return self.criterion(logits, targets, rewards.to(self.device))
