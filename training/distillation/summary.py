"""Console summary of a distillation."""

from __future__ import annotations

import logging

from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console

from criterions.distillation.layer_mapping import layer_mapping_table
from training.distillation.cache import TeacherCache
from training.distillation.plan import DistillationPlan

log = logging.getLogger(__name__)


@rank_zero_only
def log_distillation(plan: DistillationPlan, cache: TeacherCache | None) -> None:
    """The teachers, the layer mapping and the state of the cache."""
    log.info("teachers: %s", ", ".join(map(str, plan.files)))
    if plan.criterion.feature_pairs:
        Console().print(layer_mapping_table(plan.criterion.feature_pairs))
    if cache is not None:
        log_cache(cache, plan.cache.views)


def log_cache(cache: TeacherCache, views: int) -> None:
    """How complete a cache is."""
    size = cache.n_bytes / 1e6
    log.info("teacher cache %s: %d of %d samples, %.1f MB; views of each row: %d", cache.folder, len(cache),
             cache.n_keys, size, views)  # fmt: skip
