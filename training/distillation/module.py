"""The training step of a student with a teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from criterions.base import Loss, Targets
from criterions.distillation.criterion import Masks, States
from criterions.distillation.logits import OnPolicy
from data.batch import Batch
from ofa.encoder import EncoderOutput
from ofa.generation import SamplingOptions, sample
from ofa.vocabulary import PAD
from runtime.collectives import mean_weights
from training.distillation.teacher import CachedTeacher, Teacher
from training.module import TrainingModule


class DistillationModule(TrainingModule):
    """Compares student and teacher on each batch and, on-policy, on sequences that the student samples.

    The projections of the criterion are trained and saved with the student; the teacher is neither.

    Args:
        *parts, **options: as for TrainingModule; the model is the student, the criterion a DistillationCriterion.
        teacher: returns what the criterion compares.
        on_policy: the loss on sampled sequences; None: no sampling.
    """

    def __init__(
        self,
        *parts: Any,
        teacher: Teacher | CachedTeacher,
        on_policy: OnPolicy | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(*parts, **options)
        self.teacher = teacher
        self.on_policy = on_policy
        self.seed = seed
        self.total_steps = 0  # known when training starts

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)
        self.total_steps = int(self.trainer.estimated_stepping_batches)

    @property
    def sampling(self) -> SamplingOptions:
        """How the student samples: allowed ids only, with the length limits of the task."""
        return SamplingOptions(
            max_len=self.generation.max_len,
            prefix_counts_toward_max_len=self.generation.prefix_counts_toward_max_len,
            min_len=self.generation.min_len,
            temperature=self.on_policy.temperature,
            constraint_range=self.allowed.range,
            prefix_tree=self.allowed.tree,
        )

    def loss(self, batch: Batch) -> Loss:
        targets = self.allowed.targets(batch.target)
        if self.on_policy is None:
            return self._on_targets(batch, targets, self.teacher(batch, targets))[0]
        sampled, sources = self._sampled(batch), self.teacher.encode(batch)
        loss, encoded = self._on_targets(batch, targets, self.teacher.states(batch, targets, sources))
        divergence = self._on_sampled(sampled, sources, encoded)
        total = loss.sum + self.on_policy.weight * divergence
        return Loss(total, 1, {**loss.terms, "loss": total, "on_policy": divergence})

    def _on_targets(self, batch: Batch, targets: Targets, given: States) -> tuple[Loss, EncoderOutput]:
        """The loss of the criterion, and the encoder output of the student in all its passes."""
        if self.criterion.passes == 2:  # the teacher has no dropout: one pass of it serves both of the student
            batch, targets, given = batch.twice(), targets.repeat(2), given.repeat(2)
        wanted = self.criterion.student_features
        encoded = self.model.encoder(batch.input_ids, batch.patch_images, batch.patch_masks, wanted)
        decoded = self.model.decoder(batch.decoder_input_ids, encoded, wanted=wanted)
        logits = self.model.logits(decoded.last_hidden_state[targets.valid], targets.ids)
        loss = self.criterion(
            States(logits, encoded.features | decoded.features),
            given,
            targets,
            Masks(~encoded.padding, batch.decoder_input_ids != PAD),
            self.global_step,
            self.total_steps,
            batch.weights,
            mean_weights,
        )
        return loss, encoded

    def _sampled(self, batch: Batch) -> Batch:
        """The batch with answers sampled from the student; a resumed run samples the same."""
        # The ids, so that accumulated batches and processes do not draw the same numbers.
        seeds = [(self.seed, self.global_step, row, *name.encode()) for row, name in enumerate(batch.ids)]
        with self.evaluation_mode():
            hypotheses = sample(self.model, batch.inputs, self.sampling, seeds, batch.prefix_tokens)
        return batch.with_targets([h.tokens[len(p) :] for h, p in zip(hypotheses, batch.prefixes, strict=True)])

    def _on_sampled(self, sampled: Batch, sources: list[EncoderOutput], encoded: EncoderOutput) -> Tensor:
        """The divergence of student and teacher on sampled sequences, given the encoder outputs of both."""
        targets = self.allowed.targets(sampled.target)
        given = States(self.teacher.probabilities(sampled, targets, sources), {})
        if self.criterion.passes == 2:
            sampled, targets, given = sampled.twice(), targets.repeat(2), given.repeat(2)
        decoded = self.model.decoder(sampled.decoder_input_ids, encoded)
        logits = self.model.logits(decoded.last_hidden_state[targets.valid], targets.ids)
        share = mean_weights(logits.new_tensor([len(logits)], dtype=torch.float32))[0]
        return share * self.on_policy.divergence(logits, given.logits, targets.allowed)
