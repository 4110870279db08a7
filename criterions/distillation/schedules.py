"""How the weight of a loss changes over training."""

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
    """Raises UserError for a name that is no weight schedule; `key` is the setting that holds it."""
    check_choice(name, key, WEIGHT_SCHEDULES)


def weight_factor(name: str, update: int, total_updates: int) -> float:
    """The factor in [0, 1] of a weight after `update` of `total_updates` optimizer steps; it stays as it ended."""
    return WEIGHT_SCHEDULES[name](min(1.0, update / total_updates))
