"""A training step with a teacher and the same step without one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.compute import ModelCase, training_step
from benchmarks.measure import Machine, Workload
from criterions.distillation.criterion import DistillationCriterion
from criterions.distillation.layer_mapping import map_layers, read_rules
from criterions.label_smoothing import LabelSmoothedCrossEntropy
from data.batch import Batch, Sample, collate
from ofa.config import OFAConfig
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer
from ofa.vocabulary import BOS, CODE_OFFSET, EOS, UNK
from tasks.base import Task
from tasks.caption import Caption
from training.distillation.cache import TeacherCache
from training.distillation.module import DistillationModule
from training.distillation.teacher import CachedTeacher, Teacher
from training.freezing import Freezing
from training.module import TrainingModule
from training.optim import Optim


@dataclass(frozen=True)
class StepOfBatch(ModelCase):
    """The training step of the Lightning module over the whole vocabulary, including clipping and AdamW."""

    batch_size: int = 4
    target_tokens: int = 20

    def build_task(self) -> Task:
        return Caption.build(tokenizer=Tokenizer.demo(), image_size=self.image_size)

    def build_batch(self, machine: Machine) -> Batch:
        generator = torch.Generator().manual_seed(1)
        samples = []
        for i in range(self.batch_size):
            source, target = (
                torch.randint(UNK + 1, CODE_OFFSET, (length,), generator=generator).tolist()
                for length in (self.source_tokens - 2, self.target_tokens - 1)
            )
            image = torch.randn(3, self.image_size, self.image_size, generator=generator)
            samples.append(Sample(str(i), [BOS, *source, EOS], [*target, EOS], image, truth=None, key=i))
        return collate(samples).to(machine.device)

    def workload(self, module: TrainingModule, machine: Machine) -> Workload:
        module.to(machine.device).train()
        batch = self.build_batch(machine)
        return Workload(training_step(module, module.optim, lambda: module.loss(batch), machine), self.batch_size)


@dataclass(frozen=True)
class PlainStep(StepOfBatch):
    """Without a teacher."""

    label = "plain step, {image_size} px, batch {batch_size}"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        model, task = self.build_model(machine, train=True), self.build_task()
        criterion, optim = LabelSmoothedCrossEntropy(), Optim(lr=1e-4)
        module = TrainingModule(model, task, task.processor.generation, criterion, optim, Freezing())
        return self.workload(module, machine)


@dataclass(frozen=True)
class DistillationStep(StepOfBatch):
    """With a teacher's probabilities and attention maps, as in the published recipes."""

    teacher: str = "base"
    teacher_precision: str = "32-true"
    pairs: str | None = "first:attention_mse_sum:encoder,first:attention_mse_sum:decoder"

    label = "distillation step, {image_size} px, batch {batch_size}"

    @property
    def name(self) -> str:
        return super().name + ("" if self.teacher_precision == "32-true" else f", teacher {self.teacher_precision}")

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        student, task = self.build_model(machine, train=True), self.build_task()
        teacher = OFAModel(OFAConfig.from_name(self.teacher))
        pairs = map_layers(read_rules(self.pairs, 1.0, None), student.config, teacher.config)
        criterion = DistillationCriterion(LabelSmoothedCrossEntropy(), pairs, student.config, teacher.config)
        teacher = self.build_teacher(teacher, criterion, folder)
        module = DistillationModule(
            student, task, task.processor.generation, criterion, Optim(lr=1e-4), Freezing(), teacher=teacher
        )
        module.total_steps = 1
        teacher.to(torch.device(machine.device))
        return self.workload(module, machine)

    def build_teacher(self, model: OFAModel, criterion: DistillationCriterion, folder: Path) -> Teacher | CachedTeacher:
        return Teacher([model], criterion.teacher_features, precision=self.teacher_precision)


@dataclass(frozen=True)
class CachedStep(DistillationStep):
    """With the teacher's probabilities from a cache; the first step, which is not timed, fills it."""

    pairs: str | None = None
    top_k: int = 64

    label = "distillation step, {image_size} px, batch {batch_size}, cached"

    def build_teacher(self, model: OFAModel, criterion: DistillationCriterion, folder: Path) -> Teacher | CachedTeacher:
        cache = TeacherCache(folder / "cache", self.batch_size, {})
        teacher = super().build_teacher(model, criterion, folder)
        return CachedTeacher(cache, lambda: teacher, self.top_k)
