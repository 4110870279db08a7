"""The layer mapping: which layer of the student is compared with which of the teacher, from their architectures."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rich.table import Column, Table

from criterions.distillation.feature_losses import FEATURE_LOSSES, FeatureLoss
from criterions.distillation.projections import ACTIVATIONS
from ofa.config import OFAConfig, check_number, did_you_mean
from ofa.errors import UserError
from ofa.features import Feature

STACKS = ("encoder", "decoder", "cross")  # cross: the decoder's attention to the encoder's output
_NAMED_RULE = re.compile(r"(first|last)([1-9][0-9]*)?|gap")
_VALID_RULES = "first, last, gap, first2, last2 (any number), or pairs of student and teacher layers, [[0, 1], [3, 5]]"


@dataclass(frozen=True)
class FeaturePair:
    """One loss between one layer of the student and one of the teacher.

    Attributes:
        stack: encoder, decoder or cross (the decoder's attention to the encoder).
        feature: attention, hidden, query, key or value.
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
        """One, or two of a loss of two layers."""
        return [Feature(self.stack, self.feature, layer) for layer in self.student_layers]

    @property
    def teacher_features(self) -> list[Feature]:
        """As many as `student_features`."""
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

    Example:
        >>> FeatureLossRule("first", "attention_mse_sum", "encoder")
        >>> FeatureLossRule([[0, 1], [3, 5]], "hidden_mse", "decoder", weight=0.1, projection="linear")
    """

    rule: str | Sequence[Sequence[int]]
    loss: str
    stack: str
    weight: float = 1.0
    projection: str | None = None

    def __post_init__(self) -> None:
        self._check_name("loss", self.loss, FEATURE_LOSSES)
        self._check_name("stack", self.stack, STACKS)
        if self.projection is not None:
            self._check_name("projection", self.projection, ACTIVATIONS)
        check_layer_rule(self.rule, self._setting)
        check_number(self.weight, f"{self._setting}: weight", "the default is distill.feature_weight")
        loss = self.feature_loss
        if self.stack == "cross" and loss.feature == "hidden":
            self._refuse("cross-attention has no hidden states; take those of the decoder")
        if self.projection is not None and not loss.equal_width:
            self._refuse(f"{self.loss} needs no equal widths; leave the projection out")

    def __str__(self) -> str:
        return f"{self.rule}:{self.loss}:{self.stack}"

    @property
    def feature_loss(self) -> FeatureLoss:
        """The loss that `loss` names."""
        return FEATURE_LOSSES[self.loss]

    def pairs(self, student: OFAConfig, teacher: OFAConfig) -> list[FeaturePair]:
        """The feature pairs of two models.

        Hidden states include the embeddings. A loss of two layers takes the states of two consecutive pairs.

        Raises:
            UserError: for layers that are missing, and heads or widths that cannot be compared.
        """
        self._check_heads_and_widths(student, teacher)
        pairs = layer_pairs(self.rule, _layers(student, self.stack), _layers(teacher, self.stack), self._setting)
        chains = [(pair,) for pair in pairs]
        if self.feature_loss.feature == "hidden":
            states = [(0, 0), *((s + 1, t + 1) for s, t in pairs)]
            chains = [(state,) for state in states]
            if self.feature_loss.of_two_layers:
                chains = list(zip(states, states[1:], strict=False))
        return [
            FeaturePair(
                self.stack,
                self.feature_loss.feature,
                self.loss,
                tuple(s for s, _ in chain),
                tuple(t for _, t in chain),
                self.weight,
                self.projection,
            )
            for chain in chains
        ]

    def _check_heads_and_widths(self, student: OFAConfig, teacher: OFAConfig) -> None:
        heads, teacher_heads = _heads(student, self.stack), _heads(teacher, self.stack)
        if self.feature_loss.equal_heads and heads != teacher_heads:
            alternative = {"attention_mse": "attention_mse_sum", "attention_ce": "attention_ce_mean"}[self.loss]
            self._refuse(
                f"the student has {heads} heads and the teacher {teacher_heads}, which are compared one by one; "
                f"take {alternative}"
            )
        if self.feature_loss.equal_width and self.projection is None and student.d_model != teacher.d_model:
            self._refuse(
                f"the student is {student.d_model} wide and the teacher {teacher.d_model}; set the projection to "
                f"one of {', '.join(ACTIVATIONS)}"
            )

    def _check_name(self, field: str, name: object, valid: Collection[str]) -> None:
        if not isinstance(name, str) or name not in valid:
            self._refuse(f"{name!r} is not a {field}; take one of {', '.join(valid)}{did_you_mean(str(name), valid)}")

    @property
    def _setting(self) -> str:
        return f"distill.feature_losses, {self}"

    def _refuse(self, reason: str) -> None:
        raise UserError(f"{self._setting}: {reason}")


def check_layer_rule(rule: str | Sequence[Sequence[int]], setting: str) -> None:
    """Raises UserError, about `setting`, for an invalid layer rule."""
    if isinstance(rule, str):
        if not _NAMED_RULE.fullmatch(rule):
            raise UserError(f"{setting}: there is no layer rule {rule!r}; take {_VALID_RULES}")
    elif not _are_pairs(rule):
        raise UserError(f"{setting}: the layers are neither a rule nor pairs of numbers; take {_VALID_RULES}")


def layer_pairs(
    rule: str | Sequence[Sequence[int]], n_student: int, n_teacher: int, setting: str
) -> list[tuple[int, int]]:
    """The pairs of student and teacher layer of a valid rule, for stacks of these numbers of layers.

    Raises:
        UserError: about `setting`, where a layer is missing.
    """
    pairs = _named_pairs(rule, n_student, n_teacher) if isinstance(rule, str) else [(s, t) for s, t in rule]
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
    """The rules of the setting `distill.feature_losses`: the compact form, a list of it and of mappings, or None.

    Weight and projection are the defaults of rules without; the projection, for losses that need equal widths.

    Raises:
        UserError: as FeatureLossRule and `parse_rules`, and where a setting does not exist.

    Example:
        >>> read_rules(["first:attention_mse_sum:encoder", {"rule": "gap", "loss": "cos", "stack": "decoder"}])
    """
    entries = [feature_losses] if isinstance(feature_losses, str) else feature_losses or []
    if not isinstance(entries, Sequence):
        raise UserError(
            f"distill.feature_losses={feature_losses} is neither a list nor rule:loss:stack, as in gap:cos:encoder"
        )
    rules = []
    for entry in entries:
        if isinstance(entry, str):
            rules += parse_rules(entry, weight, projection)
            continue
        names = [field.name for field in fields(FeatureLossRule)]
        if not isinstance(entry, Mapping) or not {"rule", "loss", "stack"} <= entry.keys() <= set(names):
            raise UserError(
                f"distill.feature_losses has {entry!r}; take rule:loss:stack, or settings among {', '.join(names)}, of "
                "which the first three are required"
            )
        needed = projection if _needs_equal_width(entry["loss"]) else None
        rules.append(FeatureLossRule(**{"weight": weight, "projection": needed, **entry}))
    return rules


def parse_rules(text: str, weight: float = 1.0, projection: str | None = None) -> list[FeatureLossRule]:
    """The rules of the compact form, `rule:loss:stack` joined by commas.

    All get the same weight; the projection is used by the losses that need equal widths.

    Raises:
        UserError: a part does not have this form, or a name does not exist.

    Example:
        >>> parse_rules("first:attention_mse_sum:encoder,gap:hidden_mse:decoder", projection="linear")
    """
    rules = []
    for part in text.split(","):
        names = part.strip().split(":")
        if len(names) != 3:
            raise UserError(
                f"distill.feature_losses has {part!r}, which is not rule:loss:stack, as in gap:hidden_mse:encoder"
            )
        rule, loss, stack = names
        rules.append(FeatureLossRule(rule, loss, stack, weight, projection if _needs_equal_width(loss) else None))
    return rules


def _needs_equal_width(loss: object) -> bool:
    return isinstance(loss, str) and loss in FEATURE_LOSSES and FEATURE_LOSSES[loss].equal_width


def map_layers(rules: Iterable[FeatureLossRule], student: OFAConfig, teacher: OFAConfig) -> list[FeaturePair]:
    """All feature pairs of the rules between two models.

    Raises:
        UserError: where one is impossible.
    """
    return [pair for rule in rules for pair in rule.pairs(student, teacher)]


def layer_mapping_table(pairs: Iterable[FeaturePair]) -> Table:
    """One line for each pair; layers count from 0."""
    columns = ("stack", "loss", "student layer", "teacher layer", "weight", "projection")
    table = Table(*(Column(name, no_wrap=name == "loss") for name in columns), title="Layer mapping")
    for pair in pairs:
        student, teacher = (_layer_names(pair, layers) for layers in (pair.student_layers, pair.teacher_layers))
        table.add_row(pair.stack, pair.loss, student, teacher, f"{pair.weight:g}", pair.projection or "")
    return table


def _are_pairs(rule: object) -> bool:
    """Whether this is a non-empty list of pairs of numbers."""
    return (
        isinstance(rule, Sequence)
        and len(rule) > 0
        and all(isinstance(pair, Sequence) and len(pair) == 2 for pair in rule)
        and all(isinstance(layer, int) for pair in rule for layer in pair)
    )


def _layer_names(pair: FeaturePair, layers: tuple[int, ...]) -> str:
    if pair.feature == "hidden":
        return " to ".join("embeddings" if layer == 0 else str(layer - 1) for layer in layers)
    return str(layers[0])


def _named_pairs(rule: str, n_student: int, n_teacher: int) -> list[tuple[int, int]]:
    if rule == "gap":
        return [(i, (i + 1) * (n_teacher // n_student) - 1) for i in range(n_student)]
    name, count = _NAMED_RULE.fullmatch(rule).groups()
    count = int(count or n_student)
    if name == "first":
        return [(i, i) for i in range(count)]
    return [(i, i + n_teacher - n_student) for i in range(n_student - count, n_student)]


def _layers(config: OFAConfig, stack: str) -> int:
    return config.encoder_layers if stack == "encoder" else config.decoder_layers


def _heads(config: OFAConfig, stack: str) -> int:
    return config.encoder_attention_heads if stack == "encoder" else config.decoder_attention_heads
