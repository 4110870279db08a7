"""Projections from the width of the student to that of the teacher, trained with the student."""

from __future__ import annotations

from torch import nn

ACTIVATIONS = {"linear": None, "relu": nn.ReLU, "tanh": nn.Tanh}


def build_projection(kind: str, student_width: int, teacher_width: int) -> nn.Module:
    """linear, or linear and then relu or tanh: [..., student width] to [..., teacher width]."""
    linear = nn.Linear(student_width, teacher_width)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    activation = ACTIVATIONS[kind]
    return linear if activation is None else nn.Sequential(linear, activation())
