"""A processor as plain values, kept beside a model's weights, and made of them again."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from ofa.checkpoint import TaskSettings
from ofa.generation import GenerationOptions
from ofa.processors import PROCESSORS, ImageProcessor
from ofa.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_NOT_SAVED = ("tokenizer", "answer_list")  # they are files of their own, or stand apart


def saved(processor: ImageProcessor, options: GenerationOptions) -> TaskSettings:
    """The settings of a processor, and what its answers are generated with beside its own way."""
    names = _settings_of(processor.pipeline)
    own = processor.generation
    generation = {
        field.name: _as_tuple(getattr(options, field.name))
        for field in dataclasses.fields(options)
        if field.name != "prefix_tree" and getattr(options, field.name) != getattr(own, field.name)
    }
    answers = tuple(processor.answers) if processor.pipeline == "visual-question-answering" else ()
    return TaskSettings(
        pipeline=processor.pipeline,
        settings={name: _as_tuple(getattr(processor, name)) for name in names},
        generation=generation,
        answers=answers or None,
    )


def restored(task: TaskSettings, tokenizer: Tokenizer) -> tuple[ImageProcessor, GenerationOptions]:
    """The processor and the options of generation that settings describe; settings it has not are named and left.

    Raises:
        UserError: a value that no processor can have.
    """
    names = _settings_of(task.pipeline)
    unknown = sorted(set(task.settings) - set(names))
    if unknown:
        log.info("settings that %s has not: %s", task.pipeline, ", ".join(unknown))
    settings = {name: _as_tuple(value) for name, value in task.settings.items() if name in names}
    if task.pipeline == "visual-question-answering":
        settings |= (
            {"answer_list": task.answers} if task.answers else {"constrained": False, "inference": "beam_search"}
        )
    processor = PROCESSORS[task.pipeline](tokenizer=tokenizer, **settings)
    changes = {name: _as_tuple(v) for name, v in task.generation.items() if name not in processor.fixed_generation}
    return processor, dataclasses.replace(processor.generation, **changes)


def _settings_of(pipeline: str) -> list[str]:
    return [field.name for field in dataclasses.fields(PROCESSORS[pipeline]) if field.name not in _NOT_SAVED]


def _as_tuple(value: Any) -> Any:
    """JSON's and Hydra's lists are the tuples they were."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
