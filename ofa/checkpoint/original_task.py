"""The task that the original trainer's options name: `original_task`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ofa.checkpoint.task_settings import IMAGENET, TaskSettings
from ofa.processors import PROCESSORS


def original_task(name: str | None, options: Mapping[str, Any]) -> TaskSettings | None:
    """The task settings of a model of the original trainer; None where its task has no processor or no name."""
    processor = next((p for p in PROCESSORS.values() if p.original_name == name), None) if name else None
    if processor is None:
        return None
    names = {"patch_image_size": "image_size", **processor.original_settings}
    settings = {ours: options[theirs] for theirs, ours in names.items() if options.get(theirs) is not None}
    if processor.has_answer_list and options.get("unconstrained_training"):
        settings |= {"constrained": False, "inference": "beam_search"}
    if options.get("imagenet_default_mean_and_std"):
        settings |= IMAGENET
    return TaskSettings(processor.pipeline, settings)
