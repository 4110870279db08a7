"""Schedules of loss weights."""

from __future__ import annotations

from ofa.config import check_choice


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


def growing(progress: float) -> float:
    """From 0 to 1, linearly."""
    return progress


def decaying(progress: float) -> float:
    """From 1 to 0, linearly."""
    return 1 - progress


WEIGHT_SCHEDULES = {"constant": constant, "growing": growing, "decaying": decaying}


def check_weight_schedule(name: str, key: str) -> None:
    """Raises UserError, about the setting `key`, for a name of no weight schedule."""
    check_choice(name, key, WEIGHT_SCHEDULES)


def weight_factor(name: str, step: int, total_steps: int) -> float:
    """The factor in [0, 1] of a weight after `step` of `total_steps` optimizer steps; constant after the last."""
    return WEIGHT_SCHEDULES[name](min(1.0, step / total_steps))
