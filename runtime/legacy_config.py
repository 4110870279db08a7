"""Configurations of runs from before the packages were split, under the names of today.

To be deleted when no run of that time is resumed any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.configuration import flatten

NEW = "log_every"  # a setting that those runs do not have
RENAMED = {
    "distill.hard_weight": "distill.ce_weight",
    "distill.hard_schedule": "distill.ce_schedule",
    "distill.matches": "distill.feature_losses",
    "distill.match_weight": "distill.feature_weight",
    "distill.match_schedule": "distill.feature_schedule",
}
MOVED = {"training.strategies": "runtime.strategies", "training.sharding": "runtime.sharding"}  # modules of _target_
BINS = [58457, 59457]  # criterion.constraint_range


def upgrade(settings: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an earlier run by their full name, to be compared with those of today.

    A setting that the earlier run could not have is taken from today's, so that it does not take part.

    Args:
        settings: of the earlier run, nested. A group without settings, such as `distill`, was not chosen and stays so.
        current: settings of today, by full name.
    """
    if NEW in settings:
        return dict(flatten(settings))
    upgraded = {RENAMED.get(key, key): _upgrade_value(key, value) for key, value in flatten(settings)}
    return {key: value for key, value in current.items() if settings.get(key.split(".")[0]) != {}} | upgraded


def _upgrade_value(key: str, value: Any) -> Any:
    if key.endswith("_target_"):
        module, _, name = value.rpartition(".")
        return f"{MOVED.get(module, module)}.{name}"
    return "bins" if key == "criterion.constraint_range" and value == BINS else value
