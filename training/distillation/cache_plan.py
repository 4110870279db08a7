"""How a teacher's logits are to be kept: decided, and refused, before any weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from criterions.distillation.criterion import DistillationCriterion
from ofa.errors import UserError
from ofa.generation import PrefixTree


@dataclass(frozen=True)
class CachePlan:
    """A cache that fits its distillation.

    Attributes:
        folder: where it is.
        views: how many augmentations of each row there are.
        top_k: how many ids of the vocabulary are kept of each token; None: all that it may be.
    """

    folder: Path
    views: int
    top_k: int | None


def plan_cache(
    folder: str | None, views: int, top_k: int, criterion: DistillationCriterion, tree: PrefixTree | None
) -> CachePlan | None:
    """The plan of the settings distill.cache, .cache_views and .cache_top_k, or None where there is no folder.

    Raises:
        UserError: for numbers that make no sense, and where a loss reads what is not kept.
    """
    if folder is None:
        return None
    for key, value in (("cache_views", views), ("cache_top_k", top_k)):
        if not isinstance(value, int) or value < 1:
            raise UserError(f"distill.{key}={value} is not a whole number of at least 1")
    if criterion.matches:
        raise UserError(
            f"distill.cache={folder} keeps logits alone, and distill.matches compares intermediate states; "
            "leave out one of them"
        )
    restricted = tree is not None or criterion.hard.constraint_range is not None
    if restricted or top_k >= criterion.vocabulary_size:
        return CachePlan(Path(folder), views, None)
    for key, value, is_set in (
        ("kd", "mse", criterion.kd == "mse"),
        ("temperature.schedule", "flsw", criterion.temperature.schedule == "flsw"),
    ):
        if is_set:
            raise UserError(
                f"distill.{key}={value} reads the logits of all {criterion.vocabulary_size} ids, of which "
                f"distill.cache_top_k={top_k} keeps the best; choose another, or distill without distill.cache"
            )
    return CachePlan(Path(folder), views, top_k)
