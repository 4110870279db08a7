"""Which layer of the student learns from which layer of the teacher, decided from their configurations alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rich.table import Column, Table

from criterions.distillation.intermediate import INTERMEDIATE_LOSSES, IntermediateLoss
from criterions.distillation.projections import ACTIVATIONS
from ofa.config import OFAConfig, check_number, did_you_mean
from ofa.errors import UserError
from ofa.features import Feature

STACKS = ("encoder", "decoder", "cross")  # cross: the decoder's attention to the encoder's output
_NAMED_RULE = re.compile(r"(first|last)([1-9][0-9]*)?|gap")
_RULES_IN_WORDS = (
    "first, last, gap, first2, last2 (any number), or pairs of student and teacher layers, [[0, 1], [3, 5]]"
)


@dataclass(frozen=True)
class Match:
    """One loss between one layer of the student and one of the teacher.

    Attributes:
        stack: encoder, decoder or cross.
        feature: attention, hidden, query, key or value.
        loss: a name in INTERMEDIATE_LOSSES.
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
class MatchRule:
    """Matches of all layers of a stack, as they are configured.

    Attributes:
        rule: with S layers in the student and T in the teacher, layer i of the student, from 0, learns from
            first: i; last: i + T - S; gap: (i + 1) * floor(T / S) - 1. first2 and last2 are the same for the student's
            first or last two layers only. Or explicit pairs of a student's and a teacher's layer.
        loss, stack, weight, projection: as of Match.

    Raises:
        UserError: at construction, for what no pair of models can have.

    Example:
        >>> MatchRule("first", "attention_mse_sum", "encoder")
        >>> MatchRule([[0, 1], [3, 5]], "hidden_mse", "decoder", weight=0.1, projection="linear")
    """

    rule: str | Sequence[Sequence[int]]
    loss: str
    stack: str
    weight: float = 1.0
    projection: str | None = None

    def __post_init__(self) -> None:
        self._check_name("loss", self.loss, INTERMEDIATE_LOSSES)
        self._check_name("stack", self.stack, STACKS)
        if self.projection is not None:
            self._check_name("projection", self.projection, ACTIVATIONS)
        check_layer_rule(self.rule, self._setting)
        check_number(self.weight, f"{self._setting}: weight", "without one it is distill.match_weight")
        loss = self.intermediate_loss
        if self.stack == "cross" and loss.feature == "hidden":
            self._refuse("cross-attention has no hidden states of its own; take those of the decoder")
        if self.projection is not None and not loss.equal_width:
            self._refuse(f"{self.loss} needs no equal widths; leave the projection out")

    def __str__(self) -> str:
        return f"{self.rule}:{self.loss}:{self.stack}"

    @property
    def intermediate_loss(self) -> IntermediateLoss:
        """The loss that `loss` names."""
        return INTERMEDIATE_LOSSES[self.loss]

    def matches(self, student: OFAConfig, teacher: OFAConfig) -> list[Match]:
        """The matches between two models.

        Hidden states are matched at the embeddings, too. A loss of two layers takes the states of one match and of
        the match before it: what happens from one to the other.

        Raises:
            UserError: for layers that are missing, and heads or widths that cannot be compared.
        """
        self._check_heads_and_widths(student, teacher)
        pairs = layer_pairs(self.rule, _layers(student, self.stack), _layers(teacher, self.stack), self._setting)
        chains = [(pair,) for pair in pairs]
        if self.intermediate_loss.feature == "hidden":
            states = [(0, 0), *((s + 1, t + 1) for s, t in pairs)]
            chains = [(state,) for state in states]
            if self.intermediate_loss.of_two_layers:
                chains = list(zip(states, states[1:], strict=False))
        return [
            Match(
                self.stack,
                self.intermediate_loss.feature,
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
        if self.intermediate_loss.equal_heads and heads != teacher_heads:
            alternative = {"attention_mse": "attention_mse_sum", "attention_ce": "attention_ce_mean"}[self.loss]
            self._refuse(
                f"the student has {heads} heads and the teacher {teacher_heads}, which are compared one by one; "
                f"take {alternative}"
            )
        if self.intermediate_loss.equal_width and self.projection is None and student.d_model != teacher.d_model:
            self._refuse(
                f"the student is {student.d_model} wide and the teacher {teacher.d_model}; set the projection to "
                f"one of {', '.join(ACTIVATIONS)}"
            )

    def _check_name(self, field: str, name: object, valid: Collection[str]) -> None:
        if not isinstance(name, str) or name not in valid:
            self._refuse(f"{name!r} is not a {field}; take one of {', '.join(valid)}{did_you_mean(str(name), valid)}")

    @property
    def _setting(self) -> str:
        return f"distill.matches, {self}"

    def _refuse(self, reason: str) -> None:
        raise UserError(f"{self._setting}: {reason}")


def check_layer_rule(rule: str | Sequence[Sequence[int]], setting: str) -> None:
    """Raises UserError, about `setting`, for what is no layer rule of MatchRule."""
    if isinstance(rule, str):
        if not _NAMED_RULE.fullmatch(rule):
            raise UserError(f"{setting}: there is no layer rule {rule!r}; take {_RULES_IN_WORDS}")
    elif not _are_pairs(rule):
        raise UserError(f"{setting}: the layers are neither a rule's name nor pairs of numbers; take {_RULES_IN_WORDS}")


def layer_pairs(
    rule: str | Sequence[Sequence[int]], n_student: int, n_teacher: int, setting: str
) -> list[tuple[int, int]]:
    """The pairs of student and teacher layer of a sound rule, for stacks of so many layers.

    Raises:
        UserError: about `setting`, where a layer is missing.
    """
    pairs = _named_pairs(rule, n_student, n_teacher) if isinstance(rule, str) else [(s, t) for s, t in rule]
    for s, t in pairs:
        for who, layer, layers in (("student", s, n_student), ("teacher", t, n_teacher)):
            if not 0 <= layer < layers:
                raise UserError(
                    f"{setting}: student layer {s} is to learn from teacher layer {t}, and the {who} has layers 0 to "
                    f"{layers - 1}; take another rule or pairs of layers"
                )
    return pairs


def read_rules(
    matches: str | Sequence[str | Mapping[str, Any]] | None, weight: float = 1.0, projection: str | None = None
) -> list[MatchRule]:
    """The rules of a configuration: the compact form, a list of compact forms and settings of MatchRule, or nothing.

    Weight and projection are those of rules that name none; the projection, of the losses that need equal widths.

    Raises:
        UserError: as MatchRule and `parse_rules`, and where a setting does not exist.

    Example:
        >>> read_rules(["first:attention_mse_sum:encoder", {"rule": "gap", "loss": "cos", "stack": "decoder"}])
    """
    entries = [matches] if isinstance(matches, str) else matches or []
    if not isinstance(entries, Sequence):
        raise UserError(f"distill.matches={matches} is neither a list nor rule:loss:stack, as in gap:cos:encoder")
    rules = []
    for entry in entries:
        if isinstance(entry, str):
            rules += parse_rules(entry, weight, projection)
            continue
        names = [field.name for field in fields(MatchRule)]
        if not isinstance(entry, Mapping) or not {"rule", "loss", "stack"} <= entry.keys() <= set(names):
            raise UserError(
                f"distill.matches has {entry!r}; take rule:loss:stack, or settings among {', '.join(names)}, of which "
                "the first three have to be given"
            )
        needed = projection if _needs_equal_width(entry["loss"]) else None
        rules.append(MatchRule(**{"weight": weight, "projection": needed, **entry}))
    return rules


def parse_rules(text: str, weight: float = 1.0, projection: str | None = None) -> list[MatchRule]:
    """The rules of the compact form, `rule:loss:stack` joined by commas.

    All have the one weight; the projection is that of the losses that need equal widths.

    Raises:
        UserError: where a part does not have this form, or names what there is not.

    Example:
        >>> parse_rules("first:attention_mse_sum:encoder,gap:hidden_mse:decoder", projection="linear")
    """
    rules = []
    for part in text.split(","):
        names = part.strip().split(":")
        if len(names) != 3:
            raise UserError(f"distill.matches has {part!r}, which is not rule:loss:stack, as in gap:hidden_mse:encoder")
        rule, loss, stack = names
        rules.append(MatchRule(rule, loss, stack, weight, projection if _needs_equal_width(loss) else None))
    return rules


def _needs_equal_width(loss: object) -> bool:
    return isinstance(loss, str) and loss in INTERMEDIATE_LOSSES and INTERMEDIATE_LOSSES[loss].equal_width


def compose(rules: Iterable[MatchRule], student: OFAConfig, teacher: OFAConfig) -> list[Match]:
    """All matches of the rules between two models.

    Raises:
        UserError: where one is impossible.
    """
    return [match for rule in rules for match in rule.matches(student, teacher)]


def match_table(matches: Iterable[Match]) -> Table:
    """The matches for a reader, one a line; layers count from 0."""
    columns = ("stack", "loss", "student layer", "teacher layer", "weight", "projection")
    table = Table(*(Column(name, no_wrap=name == "loss") for name in columns), title="Matched layers")
    for match in matches:
        student, teacher = (_layer_names(match, layers) for layers in (match.student_layers, match.teacher_layers))
        table.add_row(match.stack, match.loss, student, teacher, f"{match.weight:g}", match.projection or "")
    return table


def _are_pairs(rule: object) -> bool:
    """Whether this is a list of two numbers each, one at least."""
    return (
        isinstance(rule, Sequence)
        and len(rule) > 0
        and all(isinstance(pair, Sequence) and len(pair) == 2 for pair in rule)
        and all(isinstance(layer, int) for pair in rule for layer in pair)
    )


def _layer_names(match: Match, layers: tuple[int, ...]) -> str:
    if match.feature == "hidden":
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
