"""The layer mapping: which layer of the student is compared with which of the teacher, from their architectures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rich.table import Column, Table
from torch import nn

from criterions.distillation.feature_losses import FEATURE_LOSSES, FeatureLoss
from ofa.config import OFAConfig, check_number, did_you_mean
from ofa.errors import UserError
from ofa.features import Feature

ACTIVATIONS = {"linear": None, "relu": nn.ReLU, "tanh": nn.Tanh}  # of projections
STACKS = ("encoder", "decoder", "cross")  # cross: the decoder's attention to the encoder's output
_NAMED_RULE = re.compile(r"(first|last)([1-9][0-9]*)?|gap")
_VALID_RULES = "first, last, gap, first2, last2 (any number), or pairs of student and teacher layers, [[0, 1], [3, 5]]"


@dataclass(frozen=True)
class FeaturePair:
    """One loss between one layer of the student and one of the teacher.

    Attributes:
        stack, feature: a name in STACKS; attention, hidden, query, key or value.
        loss: a name in FEATURE_LOSSES.
        student_layers, teacher_layers: indices into the features of the layers as the model returns them (of hidden
            states 0 is the embeddings and i + 1 the output of layer i): one index, or two for a loss of two layers.
        weight: of the loss in the sum.
        projection: from the student's width to the teacher's: linear, relu or tanh; None compares as it is.
    """

    stack: str
    feature: str
    loss: str
    student_layers: tuple[int, ...]
    teacher_layers: tuple[int, ...]
    weight: float = 1.0
    projection: str | None = None

    @property
    def student_features(self) -> list[Feature]:
        """One, or two of a loss of two layers; as many as `teacher_features`."""
        return [Feature(self.stack, self.feature, layer) for layer in self.student_layers]

    @property
    def teacher_features(self) -> list[Feature]:
        return [Feature(self.stack, self.feature, layer) for layer in self.teacher_layers]

    @property
    def compares_source(self) -> bool:
        """Whether it compares positions of the source one by one."""
        return self.stack == "encoder" or (self.stack == "cross" and self.feature != "query")


@dataclass(frozen=True)
class FeatureLossRule:
    """A feature loss on all layers of a stack, as it is configured.

    Attributes:
        rule: with S layers in the student and T in the teacher, layer i of the student, from 0, is compared
            with first: i; last: i + T - S; gap: (i + 1) * floor(T / S) - 1. first2 and last2 are the same for the first
            or last two layers of the student only. Or explicit pairs of student and teacher layer.
        loss, stack, weight, projection: as in FeaturePair.

    Raises:
        UserError: at construction, for a rule that no pair of models can have.
    """

    rule: str | Sequence[Sequence[int]]
    loss: str
    stack: str
    weight: float = 1.0
    projection: str | None = None

    def __post_init__(self) -> None:
        names = {"loss": FEATURE_LOSSES, "stack": STACKS, "projection": (*ACTIVATIONS, None)}
        for field, valid in names.items():
            name = getattr(self, field)
            if not (isinstance(name, str) or name is None) or name not in valid:
                choices = [name for name in valid if name is not None]
                raise self._error(
                    f"{name!r} is not a {field}; take one of {', '.join(choices)}{did_you_mean(str(name), choices)}"
                )
        check_layer_rule(self.rule, f"distill.feature_losses, {self}")
        check_number(self.weight, f"distill.feature_losses, {self}: weight", "the default is distill.feature_weight")
        if self.stack == "cross" and self.feature_loss.feature == "hidden":
            raise self._error("cross-attention has no hidden states; take those of the decoder")
        if self.projection is not None and not self.feature_loss.equal_width:
            raise self._error(f"{self.loss} needs no equal widths; leave the projection out")

    def __str__(self) -> str:
        return f"{self.rule}:{self.loss}:{self.stack}"

    def _error(self, reason: str) -> UserError:
        return UserError(f"distill.feature_losses, {self}: {reason}")

    @property
    def feature_loss(self) -> FeatureLoss:
        return FEATURE_LOSSES[self.loss]

    def pairs(self, student: OFAConfig, teacher: OFAConfig) -> list[FeaturePair]:
        """The feature pairs of two models; a loss of two layers takes the states of two consecutive pairs.

        Raises:
            UserError: for layers that are missing, and heads or widths that cannot be compared.
        """
        stack, loss = "encoder" if self.stack == "encoder" else "decoder", self.feature_loss
        (heads, layers), (teacher_heads, teacher_layers) = (
            (getattr(config, f"{stack}_attention_heads"), getattr(config, f"{stack}_layers"))
            for config in (student, teacher)
        )
        if loss.equal_heads and heads != teacher_heads:
            alternative = {"attention_mse": "attention_mse_sum", "attention_ce": "attention_ce_mean"}[self.loss]
            raise self._error(
                f"the student has {heads} heads and the teacher {teacher_heads}, which are compared one by one; "
                f"take {alternative}"
            )
        if loss.equal_width and self.projection is None and student.d_model != teacher.d_model:
            raise self._error(
                f"the student is {student.d_model} wide and the teacher {teacher.d_model}; set the projection to "
                f"one of {', '.join(ACTIVATIONS)}"
            )
        pairs = layer_pairs(self.rule, layers, teacher_layers, f"distill.feature_losses, {self}")
        if loss.feature == "hidden":
            pairs = [(0, 0), *((s + 1, t + 1) for s, t in pairs)]
        chains = zip(pairs, pairs[1:], strict=False) if loss.of_two_layers else [(pair,) for pair in pairs]
        return [
            FeaturePair(self.stack, loss.feature, self.loss, *zip(*chain, strict=True), self.weight, self.projection)
            for chain in chains
        ]


def check_layer_rule(rule: str | Sequence[Sequence[int]], setting: str) -> None:
    """Raises UserError, about `setting`, for an invalid layer rule."""
    if isinstance(rule, str):
        if not _NAMED_RULE.fullmatch(rule):
            raise UserError(f"{setting}: there is no layer rule {rule!r}; take {_VALID_RULES}")
        return
    pairs = rule if isinstance(rule, Sequence) else ()
    valid = (isinstance(p, Sequence) and len(p) == 2 and all(isinstance(layer, int) for layer in p) for p in pairs)
    if not pairs or not all(valid):
        raise UserError(f"{setting}: the layers are neither a rule nor pairs of numbers; take {_VALID_RULES}")


def layer_pairs(
    rule: str | Sequence[Sequence[int]], n_student: int, n_teacher: int, setting: str
) -> list[tuple[int, int]]:
    """The pairs of student and teacher layer of a valid rule, for stacks of these numbers of layers.

    Raises:
        UserError: about `setting`, where a layer is missing.
    """
    if not isinstance(rule, str):
        pairs = [(s, t) for s, t in rule]
    elif rule == "gap":
        pairs = [(i, (i + 1) * (n_teacher // n_student) - 1) for i in range(n_student)]
    else:
        name, number = _NAMED_RULE.fullmatch(rule).groups()
        number = int(number or n_student)
        first, shift = (0, 0) if name == "first" else (n_student - number, n_teacher - n_student)
        pairs = [(i, i + shift) for i in range(first, first + number)]
    for s, t in pairs:
        for who, layer, layers in (("student", s, n_student), ("teacher", t, n_teacher)):
            if not 0 <= layer < layers:
                raise UserError(
                    f"{setting}: student layer {s} is mapped to teacher layer {t}, and the {who} has layers 0 to "
                    f"{layers - 1}; take another rule or pairs of layers"
                )
    return pairs


def read_rules(
    feature_losses: str | Sequence[str | Mapping[str, Any]] | None, weight: float = 1.0, projection: str | None = None
) -> list[FeatureLossRule]:
    """The rules of the setting `distill.feature_losses`.

    Args:
        feature_losses: the compact form, `rule:loss:stack` joined by commas; a list of it and of settings of
            FeatureLossRule; or None.
        weight: of rules without their own.
        projection: of rules without their own, for losses that need equal widths.

    Raises:
        UserError: as FeatureLossRule, and for anything else.
    """
    entries = [feature_losses] if isinstance(feature_losses, str) else feature_losses or []
    if not isinstance(entries, Sequence):
        raise UserError(
            f"distill.feature_losses={feature_losses} is neither a list nor rule:loss:stack, as in gap:cos:encoder"
        )
    names = [field.name for field in fields(FeatureLossRule)]
    rules = []
    for entry in entries:
        for rule in entry.split(",") if isinstance(entry, str) else [entry]:
            if isinstance(rule, str):
                parts = rule.strip().split(":")
                if len(parts) != 3:
                    raise UserError(
                        f"distill.feature_losses has {rule!r}, which is not rule:loss:stack, as in "
                        "gap:hidden_mse:encoder"
                    )
                rule = dict(zip(("rule", "loss", "stack"), parts, strict=True))
            if not isinstance(rule, Mapping) or not {"rule", "loss", "stack"} <= rule.keys() <= set(names):
                raise UserError(
                    f"distill.feature_losses has {rule!r}; take rule:loss:stack, or settings among {', '.join(names)}, "
                    "of which the first three are required"
                )
            loss = FEATURE_LOSSES.get(rule["loss"]) if isinstance(rule["loss"], str) else None
            default = projection if loss is not None and loss.equal_width else None
            rules.append(FeatureLossRule(**{"weight": weight, "projection": default, **rule}))
    return rules


def map_layers(rules: Iterable[FeatureLossRule], student: OFAConfig, teacher: OFAConfig) -> list[FeaturePair]:
    """The feature pairs of all rules between two models; UserError where one is impossible."""
    return [pair for rule in rules for pair in rule.pairs(student, teacher)]


def layer_mapping_table(pairs: Iterable[FeaturePair]) -> Table:
    """One line for each pair; layers count from 0."""
    columns = ("stack", "loss", "student layer", "teacher layer", "weight", "projection")
    table = Table(*(Column(name, no_wrap=name == "loss") for name in columns), title="Layer mapping")
    for pair in pairs:
        first = 1 if pair.feature == "hidden" else 0  # hidden states begin with the embeddings
        student, teacher = (
            " to ".join(str(layer - first) if layer >= first else "embeddings" for layer in layers)
            for layers in (pair.student_layers, pair.teacher_layers)
        )
        table.add_row(pair.stack, pair.loss, student, teacher, f"{pair.weight:g}", pair.projection or "")
    return table
