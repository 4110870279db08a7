"""The loss of distillation: learn from the targets, from the teacher's logits and from its intermediate states."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from criterions.distillation.intermediate import INTERMEDIATE_LOSSES
from criterions.distillation.logits import LOGIT_LOSSES, shift_probability
from criterions.distillation.matching import Match
from criterions.distillation.projections import build_projection
from criterions.distillation.schedules import check_weight_schedule, weight_factor
from criterions.distillation.states import Masks, States
from criterions.distillation.temperature import Temperature
from criterions.label_smoothing import LabelSmoothedCrossEntropy, Loss, Targets
from ofa.config import OFAConfig, check_choice, check_number
from ofa.features import Feature


class DistillationCriterion(nn.Module):
    """ce_weight * label-smoothed CE + kd_weight * KD + sum of weight * match loss.

    Each of the three parts may also grow from nothing or decay to nothing over training. A module because of the
    projections of the matches, which are trained with the student.

    Args:
        hard: the loss on the targets, which also says what a token may be: all losses on logits are of these ids alone.
        matches: the losses on intermediate states, with a weight each.
        student, teacher: their shapes.
        kd: a name in LOGIT_LOSSES, the mean over the target tokens; None leaves the teacher's logits out.
        ce_weight, kd_weight: of the first two parts.
        ce_schedule, kd_schedule, match_schedule: constant, growing or decaying.
        temperature: of teacher and student in the loss on logits.
        probability_shift: correct the teacher's logits where its best id is wrong.

    Raises:
        UserError: for values that make no sense.
    """

    def __init__(
        self,
        hard: LabelSmoothedCrossEntropy,
        matches: Sequence[Match],
        student: OFAConfig,
        teacher: OFAConfig,
        *,
        kd: str | None = "ce_with_mask",
        ce_weight: float = 1.0,
        kd_weight: float = 1.0,
        ce_schedule: str = "constant",
        kd_schedule: str = "constant",
        match_schedule: str = "constant",
        temperature: Temperature | None = None,
        probability_shift: bool = False,
    ) -> None:
        super().__init__()
        if kd is not None:
            check_choice(kd, "distill.kd", LOGIT_LOSSES)
        check_number(ce_weight, "distill.ce_weight", "0 leaves the targets out")
        check_number(kd_weight, "distill.kd_weight", "distill.kd=null leaves the teacher's logits out")
        self.schedules = {"hard": ce_schedule, "kd": kd_schedule, "match": match_schedule}
        for part, schedule in self.schedules.items():
            check_weight_schedule(schedule, f"distill.{part}_schedule")
        self.hard, self.matches, self.kd = hard, tuple(matches), kd
        self.ce_weight, self.kd_weight = ce_weight, kd_weight
        self.temperature = temperature or Temperature()
        self.probability_shift = probability_shift
        self.vocabulary_size = student.vocab_size
        projected = {str(i): match for i, match in enumerate(self.matches) if match.projection is not None}
        with torch.random.fork_rng(devices=[]):  # a student starts from the same weights with a teacher and without
            self.projections = nn.ModuleDict(
                {
                    i: build_projection(match.projection, student.d_model, teacher.d_model)
                    for i, match in projected.items()
                }
            )

    @property
    def passes(self) -> int:
        """How often the student sees each sample, as in `LabelSmoothedCrossEntropy`."""
        return self.hard.passes

    @property
    def student_features(self) -> set[Feature]:
        """What the matches compare of the student."""
        return {feature for match in self.matches for feature in match.student_features}

    @property
    def teacher_features(self) -> set[Feature]:
        """What the matches compare of the teacher."""
        return {feature for match in self.matches for feature in match.teacher_features}

    def forward(
        self,
        student: States,
        teacher: States,
        targets: Targets,
        masks: Masks,
        update: int,
        total_updates: int,
        weights: Tensor | None = None,
        shares: Callable[[Tensor], Tensor] = torch.ones_like,
    ) -> Loss:
        """The loss of a batch, a mean already: its sample size is 1.

        Args:
            student, teacher: of the same batch.
            targets: the N tokens that the logits [N, A] belong to.
            masks: where there are positions to compare.
            update: the number of optimizer steps already taken ...
            total_updates: ... and of the whole run.
            weights: [B], the confidence of each sample, for the loss on the targets.
            shares: by what to multiply each of the means that the loss consists of, by the numbers [means] of what they
                are taken over: other processes may have more.

        Returns:
            The loss and, by name, its parts before their weights; of the matches, the weighted sum of each loss and
            stack.
        """
        hard = self.hard.of_targets(student.logits, targets, update, self.vocabulary_size, weights)
        masks_of_matches = [masks.of(match) for match in self.matches]
        sizes = [len(targets.columns), hard.sample_size]
        for match, mask in zip(self.matches, masks_of_matches, strict=True):
            sizes.append(INTERMEDIATE_LOSSES[match.loss].size(mask))
        share = shares(torch.stack([hard.sum.new_zeros(()) + size for size in sizes]))
        terms = {name: share[1] * term / hard.sample_size for name, term in hard.terms.items()}
        terms["hard"] = terms.pop("loss")
        factor = {part: weight_factor(name, update, total_updates) for part, name in self.schedules.items()}
        total = factor["hard"] * self.ce_weight * terms["hard"]
        if self.kd is not None:
            terms["kd"] = share[0] * self._of_logits(student.logits, teacher.logits, targets).mean()
            total = total + factor["kd"] * self.kd_weight * terms["kd"]
        for i, match in enumerate(self.matches):
            value = share[2 + i] * match.weight * self._of_match(i, student, teacher, masks_of_matches[i])
            name = f"{match.loss}_{match.stack}"
            terms[name] = terms.get(name, 0) + value
            total = total + factor["match"] * value
        return Loss(total, 1, {"loss": total, **terms})

    def _of_logits(self, student: Tensor, teacher: Tensor, targets: Targets) -> Tensor:
        """[N], the distillation loss of each token."""
        if self.probability_shift:
            teacher = shift_probability(teacher, targets.columns, targets.allowed)
        temperature = self.temperature.of_tokens(student, teacher, targets.allowed)
        return LOGIT_LOSSES[self.kd](student, teacher, temperature, targets.allowed)

    def _of_match(self, i: int, student: States, teacher: States, mask: Tensor) -> Tensor:
        match = self.matches[i]
        learnt = [student.features[feature] for feature in match.student_features]
        given = [teacher.features[feature] for feature in match.teacher_features]
        if match.projection is not None:
            learnt = [self.projections[str(i)](state) for state in learnt]
        return INTERMEDIATE_LOSSES[match.loss](learnt, given, mask)
