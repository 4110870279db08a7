"""The task that the original trainer's options name: `original_task`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ofa.checkpoint.task_settings import IMAGENET, TaskSettings
from ofa.processors import (
    CaptionProcessor,
    EntailmentProcessor,
    GroundingProcessor,
    ImageProcessor,
    QuestionProcessor,
)

# Of each of its tasks, what asks it here, and the options that say how: its name -> ours.
TASKS: dict[str, tuple[type[ImageProcessor], dict[str, str]]] = {
    "caption": (CaptionProcessor, {}),
    "refcoco": (GroundingProcessor, {"max_src_length": "max_words", "max_image_size": "max_image_size"}),
    "snli_ve": (
        EntailmentProcessor,
        {"max_src_length": "max_words", "prompt_type": "prompt_type", "add_caption": "use_caption"},
    ),
    "vqa_gen": (
        QuestionProcessor,
        {
            "max_src_length": "max_words",
            "prompt_type": "prompt_type",
            "add_object": "use_objects",
            "max_object_length": "max_objects",
        },
    ),
}


def original_task(name: str | None, options: Mapping[str, Any]) -> TaskSettings | None:
    """How a model of the original trainer is asked; None where its task has no pipeline here, or is not said."""
    if name not in TASKS:
        return None
    processor, own = TASKS[name]
    names = {"patch_image_size": "image_size", **own}
    settings = {ours: options[theirs] for theirs, ours in names.items() if options.get(theirs) is not None}
    if processor.keeps_answers and options.get("unconstrained_training"):
        settings |= {"constrained": False, "inference": "beam_search"}
    if options.get("imagenet_default_mean_and_std"):
        settings |= IMAGENET
    return TaskSettings(processor.pipeline, settings)
