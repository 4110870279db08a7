"""The training step of a student that learns from a teacher, too."""

from __future__ import annotations

from criterions.distillation.criterion import DistillationCriterion
from criterions.distillation.states import Masks, States
from criterions.label_smoothing import Loss
from data.batch import Batch
from ofa.generation import GenerationOptions
from ofa.model import OFAModel
from ofa.vocabulary import PAD
from tasks.base import Task
from training.cached_teacher import CachedTeacher
from training.freezing import Freezing
from training.module import TrainingModule
from training.optim import Optim
from training.teacher import Teacher


class DistillationModule(TrainingModule):
    """Shows each batch to teacher and student; all else as its base class does.

    The projections of the criterion are trained and saved with the student; the teacher is neither.

    Args:
        model, task, generation, criterion, optim, freezing: as for TrainingModule; the model is the student.
        teacher: returns what the criterion compares.
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
    ) -> None:
        super().__init__(model, task, generation, criterion, optim, freezing)
        self.teacher = teacher
        self.total_updates = 0  # known when training starts

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)
        self.total_updates = int(self.trainer.estimated_stepping_batches)

    def loss(self, batch: Batch) -> Loss:
        targets = self.criterion.hard.targets(batch.target, self.task.tree)
        given = self.teacher(batch, targets)
        if self.criterion.passes == 2:  # the teacher has no dropout that would make a second pass another
            batch, targets, given = batch.twice(), targets.twice(), given.twice()
        wanted = self.criterion.student_features
        encoded = self.model.encoder(batch.input_ids, batch.patch_images, batch.patch_masks, wanted)
        decoded = self.model.decoder(batch.decoder_input_ids, encoded, wanted=wanted)
        logits = self.model.logits(decoded.last_hidden_state[targets.valid], targets.ids)
        return self.criterion(
            States(logits, encoded.features | decoded.features),
            given,
            targets,
            Masks(~encoded.padding, batch.decoder_input_ids != PAD),
            self.global_step,
            self.total_updates,
            batch.weights,
        )
