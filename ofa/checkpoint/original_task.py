"""The task that the original trainer's options name: `original_task`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ofa.checkpoint.task_settings import IMAGENET, TaskSettings
from ofa.processors import PROCESSORS

PIPELINE_OF = {
    "caption": "image-captioning",
    "refcoco": "visual-grounding",
    "snli_ve": "visual-entailment",
    "vqa_gen": "visual-question-answering",
}
SETTINGS = {
    "image-captioning": {},
    "visual-grounding": {"max_src_length": "max_words", "max_image_size": "max_image_size"},
    "visual-entailment": {"max_src_length": "max_words", "prompt_type": "prompt_type", "add_caption": "use_caption"},
    "visual-question-answering": {
        "max_src_length": "max_words",
        "prompt_type": "prompt_type",
        "add_object": "use_objects",
        "max_object_length": "max_objects",
    },
}


def original_task(name: str | None, options: Mapping[str, Any]) -> TaskSettings | None:
    """How a model of the original trainer is asked; None where its task has no pipeline here, or is not said."""
    if name not in PIPELINE_OF:
        return None
    pipeline = PIPELINE_OF[name]
    names = {"patch_image_size": "image_size", **SETTINGS[pipeline]}
    settings = {ours: options[theirs] for theirs, ours in names.items() if options.get(theirs) is not None}
    if PROCESSORS[pipeline].keeps_answers and options.get("unconstrained_training"):
        settings |= {"constrained": False, "inference": "beam_search"}
    if options.get("imagenet_default_mean_and_std"):
        settings |= IMAGENET
    return TaskSettings(pipeline, settings)
