"""The loss of distillation: a sum of losses on the targets, on the logits of the teacher and on its features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from criterions.base import Criterion, Loss, Targets
from criterions.distillation.feature_losses import FEATURE_LOSSES, valid_cells
from criterions.distillation.layer_mapping import ACTIVATIONS, FeaturePair
from criterions.distillation.logits import LOGIT_LOSSES, Temperature, shift_probability
from ofa.config import OFAConfig, check_choice, check_number
from ofa.features import Feature


@dataclass(frozen=True)
class States:
    """Logits [N, A] of the target tokens, None where no loss reads them, and the features of the mapped layers."""

    logits: Tensor | None
    features: dict[Feature, Tensor]

    def repeat(self, passes: int) -> States:
        """The states of a batch that is stacked on itself `passes` times."""
        # Not `torch.cat`, which under autocast refuses other half precisions than that of the context.
        logits, *features = (
            None if x is None else x.repeat(passes, *[1] * (x.dim() - 1))
            for x in (self.logits, *self.features.values())
        )
        return States(logits, dict(zip(self.features, features, strict=True)))


@dataclass(frozen=True)
class Masks:
    """The positions of source [B, L] and decoder input [B, T] that are not padding."""

    source: Tensor
    target: Tensor

    def of(self, pair: FeaturePair) -> Tensor:
        """The positions that a feature loss compares; of attention maps the cells, [B, T, L]."""
        queries = self.source if pair.stack == "encoder" else self.target
        keys = self.target if pair.stack == "decoder" else self.source
        if pair.feature == "attention":
            return valid_cells(queries, keys)
        return keys if pair.feature in ("key", "value") else queries


# By name, the factor of a weight after a share p of the run.
WEIGHT_SCHEDULES = {"constant": lambda p: 1.0, "growing": lambda p: p, "decaying": lambda p: 1 - p}


class DistillationCriterion(nn.Module):
    """ce_weight * criterion on the targets + kd_weight * KD on logits + sum of weight * feature loss.

    The projections of the feature losses are trained with the student.

    Args:
        criterion: the loss on the targets.
        feature_pairs: the losses on intermediate features, each with a weight.
        kd: a name in LOGIT_LOSSES, averaged over the target tokens; None: no loss on logits.
        ce_weight, kd_weight: of the first two parts.
        ce_schedule, kd_schedule, feature_schedule: constant, growing from 0 or decaying to 0 over training.
        temperature: of teacher and student in the loss on logits.
        probability_shift: correct the logits of the teacher where its best id is wrong.

    Raises:
        UserError: for values that make no sense.
    """

    def __init__(
        self,
        criterion: Criterion,
        feature_pairs: Sequence[FeaturePair],
        student: OFAConfig,
        teacher: OFAConfig,
        *,
        kd: str | None = "ce_with_mask",
        ce_weight: float = 1.0,
        kd_weight: float = 1.0,
        ce_schedule: str = "constant",
        kd_schedule: str = "constant",
        feature_schedule: str = "constant",
        temperature: Temperature | None = None,
        probability_shift: bool = False,
    ) -> None:
        super().__init__()
        if kd is not None:
            check_choice(kd, "distill.kd", LOGIT_LOSSES)
        check_number(ce_weight, "distill.ce_weight", "0 leaves the targets out")
        check_number(kd_weight, "distill.kd_weight", "distill.kd=null leaves the logits of the teacher out")
        self.schedules = {"ce": ce_schedule, "kd": kd_schedule, "feature": feature_schedule}
        for part, schedule in self.schedules.items():
            check_choice(schedule, f"distill.{part}_schedule", WEIGHT_SCHEDULES)
        self.criterion, self.feature_pairs, self.kd = criterion, tuple(feature_pairs), kd
        self.ce_weight, self.kd_weight = ce_weight, kd_weight
        self.temperature = temperature or Temperature()
        self.probability_shift = probability_shift
        self.passes = criterion.passes
        with torch.random.fork_rng(devices=[]):  # the initial weights of the student do not depend on the projections
            self.projections = nn.ModuleDict()
            for i, pair in enumerate(self.feature_pairs):
                if pair.projection is not None:
                    self.projections[str(i)] = build_projection(pair.projection, student.d_model, teacher.d_model)

    @property
    def student_features(self) -> set[Feature]:
        return {feature for pair in self.feature_pairs for feature in pair.student_features}

    @property
    def teacher_features(self) -> set[Feature]:
        return {feature for pair in self.feature_pairs for feature in pair.teacher_features}

    def forward(
        self,
        student: States,
        teacher: States,
        targets: Targets,
        masks: Masks,
        step: int,
        total_steps: int,
        weights: Tensor | None = None,
        shares: Callable[[Tensor], Tensor] = torch.ones_like,
    ) -> Loss:
        """The loss of a batch, already a mean: its sample size is 1.

        Args:
            targets: the N tokens that the logits [N, A] belong to.
            step: number of optimizer steps already taken, of `total_steps`.
            weights: [B], the confidence of each sample, for the loss on the targets.
            shares: factors of the means that the loss consists of, from the numbers [means] of elements that they are
                taken over: other processes may have more elements.

        Returns:
            The loss, and by name its parts before their weights, of feature losses weighted sums per loss and stack.
        """
        on_targets = self.criterion(student.logits, targets, step, weights)
        losses = [(FEATURE_LOSSES[pair.loss], masks.of(pair)) for pair in self.feature_pairs]
        sizes = [len(targets.columns), on_targets.sample_size, *(loss.size(mask) for loss, mask in losses)]
        share = shares(torch.stack([on_targets.sum.new_zeros(()) + size for size in sizes]))
        terms = {name: share[1] * term / on_targets.sample_size for name, term in on_targets.terms.items()}
        terms["ce"] = terms.pop("loss")
        progress = min(1.0, step / total_steps)
        factor = {part: WEIGHT_SCHEDULES[name](progress) for part, name in self.schedules.items()}
        total = factor["ce"] * self.ce_weight * terms["ce"]
        if self.kd is not None:
            terms["kd"] = share[0] * self._on_logits(student.logits, teacher.logits, targets).mean()
            total = total + factor["kd"] * self.kd_weight * terms["kd"]
        for i, (pair, (loss, mask)) in enumerate(zip(self.feature_pairs, losses, strict=True)):
            of_student = [student.features[feature] for feature in pair.student_features]
            of_teacher = [teacher.features[feature] for feature in pair.teacher_features]
            if pair.projection is not None:
                of_student = [self.projections[str(i)](state) for state in of_student]
            value = share[2 + i] * pair.weight * loss(of_student, of_teacher, mask)
            name = f"{pair.loss}_{pair.stack}"
            terms[name] = terms.get(name, 0) + value
            total = total + factor["feature"] * value
        return Loss(total, 1, {"loss": total, **terms})

    def _on_logits(self, student: Tensor, teacher: Tensor, targets: Targets) -> Tensor:
        if self.probability_shift:
            teacher = shift_probability(teacher, targets.columns, targets.allowed)
        temperature = self.temperature.of_tokens(student, teacher, targets.allowed)
        return LOGIT_LOSSES[self.kd](student, teacher, temperature, targets.allowed)


def build_projection(kind: str, student_width: int, teacher_width: int) -> nn.Module:
    """linear, or linear and then relu or tanh: [..., student width] to [..., teacher width]."""
    linear = nn.Linear(student_width, teacher_width)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    activation = ACTIVATIONS[kind]
    return linear if activation is None else nn.Sequential(linear, activation())
