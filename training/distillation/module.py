"""The training step of a student that learns from a teacher, too."""

from __future__ import annotations

import torch
from torch import Tensor

from criterions.distillation.criterion import DistillationCriterion
from criterions.distillation.on_policy import OnPolicy
from criterions.distillation.states import Masks, States
from criterions.label_smoothing import Loss, Targets
from data.batch import Batch
from ofa.encoder import EncoderOutput
from ofa.generation import GenerationOptions, SamplingOptions, sample
from ofa.model import OFAModel
from ofa.vocabulary import PAD
from runtime.collectives import mean_weights
from tasks.base import Task
from training.distillation.cached_teacher import CachedTeacher
from training.distillation.teacher import Teacher
from training.freezing import Freezing
from training.module import TrainingModule
from training.optim import Optim


class DistillationModule(TrainingModule):
    """Shows each batch to teacher and student, and to both what the student would say; all else as its base class does.

    The projections of the criterion are trained and saved with the student; the teacher is neither.

    Args:
        model, task, generation, criterion, optim, freezing: as for TrainingModule; the model is the student.
        teacher: returns what the criterion compares.
        on_policy: how sequences that the student samples count; None: it samples none.
        seed: of the sampling.
    """

    def __init__(
        self,
        model: OFAModel,
        task: Task,
        generation: GenerationOptions,
        criterion: DistillationCriterion,
        optim: Optim,
        freezing: Freezing,
        teacher: Teacher | CachedTeacher,
        on_policy: OnPolicy | None = None,
        seed: int = 0,
        *,
        on_nonfinite: str = "stop",
    ) -> None:
        super().__init__(model, task, generation, criterion, optim, freezing, on_nonfinite=on_nonfinite)
        self.teacher = teacher
        self.on_policy = on_policy
        self.seed = seed
        self.total_updates = 0  # known when training starts

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)
        self.total_updates = int(self.trainer.estimated_stepping_batches)

    @property
    def sampling(self) -> SamplingOptions:
        """How the student samples: what its criterion lets a token be, as long as the task's answers are."""
        return SamplingOptions(
            max_len=self.generation.max_len,
            prefix_counts_toward_max_len=self.generation.prefix_counts_toward_max_len,
            min_len=self.generation.min_len,
            temperature=self.on_policy.temperature,
            constraint_range=self.criterion.hard.constraint_range,
            prefix_tree=self.task.processor.tree,
        )

    def loss(self, batch: Batch) -> Loss:
        targets = self.criterion.hard.targets(batch.target, self.task.processor.tree)
        if self.on_policy is None:
            return self._on_targets(batch, targets, self.teacher(batch, targets))[0]
        sampled, sources = self._sampled(batch), self.teacher.encode(batch)
        loss, encoded = self._on_targets(batch, targets, self.teacher.states(batch, targets, sources))
        divergence = self._on_sampled(sampled, sources, encoded)
        total = loss.sum + self.on_policy.weight * divergence
        return Loss(total, 1, {**loss.terms, "loss": total, "on_policy": divergence})

    def _on_targets(self, batch: Batch, targets: Targets, given: States) -> tuple[Loss, EncoderOutput]:
        """The criterion's loss, and the sources as the student encoded them, in all its passes."""
        if self.criterion.passes == 2:  # the teacher has no dropout that would make a second pass another
            batch, targets, given = batch.twice(), targets.twice(), given.twice()
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
            self.total_updates,
            batch.weights,
            mean_weights,
        )
        return loss, encoded

    def _sampled(self, batch: Batch) -> Batch:
        """The batch with answers of the student's own; a resumed run samples the same."""
        # The ids, so that batches whose gradients are accumulated, and processes, do not draw the same numbers.
        seeds = [(self.seed, self.global_step, row, *name.encode()) for row, name in enumerate(batch.ids)]
        with self.answering():
            hypotheses = sample(self.model, batch.inputs, self.sampling, seeds, batch.prefix_tokens)
        return batch.with_targets([h.tokens[len(p) :] for h, p in zip(hypotheses, batch.prefixes, strict=True)])

    def _on_sampled(self, sampled: Batch, sources: list[EncoderOutput], encoded: EncoderOutput) -> Tensor:
        """The divergence of student and teacher on what the student sampled, both of whom have seen the sources."""
        targets = self.criterion.hard.targets(sampled.target, self.task.processor.tree)
        given = States(self.teacher.probabilities(sampled, targets, sources), {})
        if self.criterion.passes == 2:
            sampled, targets, given = sampled.twice(), targets.twice(), given.twice()
        decoded = self.model.decoder(sampled.decoder_input_ids, encoded)
        logits = self.model.logits(decoded.last_hidden_state[targets.valid], targets.ids)
        share = mean_weights(logits.new_tensor([len(logits)], dtype=torch.float32))[0]
        return share * self.on_policy.divergence(logits, given.logits, targets.allowed)
