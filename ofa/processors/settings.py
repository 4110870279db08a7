"""A processor as plain values, kept beside a model's weights, and made of them again."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ofa.checkpoint import TaskSettings
from ofa.errors import UserError
from ofa.generation import GenerationOptions
from ofa.processors import PROCESSORS, ImageProcessor
from ofa.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_NOT_SAVED = ("tokenizer", "answer_list")  # they are files of their own, or stand apart


def to_task_settings(processor: ImageProcessor, options: GenerationOptions) -> TaskSettings:
    """The settings of a processor, and what its answers are generated with beside its own way."""
    names = _settings_of(processor.pipeline)
    own = processor.generation
    generation = {
        field.name: _as_tuple(getattr(options, field.name))
        for field in dataclasses.fields(options)
        if field.name != "prefix_tree" and getattr(options, field.name) != getattr(own, field.name)
    }
    answers = tuple(processor.answers) if processor.keeps_answers else ()
    return TaskSettings(
        pipeline=processor.pipeline,
        settings={name: _as_tuple(getattr(processor, name)) for name in names},
        generation=generation,
        answers=answers or None,
    )


def from_task_settings(
    task: TaskSettings, tokenizer: Tokenizer, source: str | Path
) -> tuple[ImageProcessor, GenerationOptions]:
    """The processor and the options of generation that settings describe; settings it has not are named and left.

    Args:
        source: where they are from, as errors call it.

    Raises:
        UserError: a value that no processor can have.
    """
    try:
        return _restored(task, tokenizer)
    except UserError as error:
        raise UserError(f"the task settings of {source} cannot be used: {error}") from error


def _restored(task: TaskSettings, tokenizer: Tokenizer) -> tuple[ImageProcessor, GenerationOptions]:
    kind = PROCESSORS[task.pipeline]
    names = _settings_of(task.pipeline)
    unknown = sorted(set(task.settings) - set(names))
    if unknown:
        log.info("settings that %s has not: %s", task.pipeline, ", ".join(unknown))
    settings = {name: _as_tuple(value) for name, value in task.settings.items() if name in names}
    _check_kinds(settings, kind)
    if kind.keeps_answers:
        settings |= (
            {"answer_list": task.answers} if task.answers else {"constrained": False, "inference": "beam_search"}
        )
    processor = kind(tokenizer=tokenizer, **settings)
    changes = {name: _as_tuple(v) for name, v in task.generation.items() if name not in processor.fixed_generation}
    _check_kinds(changes, GenerationOptions)
    return processor, dataclasses.replace(processor.generation, **changes)


def _settings_of(pipeline: str) -> list[str]:
    return [field.name for field in dataclasses.fields(PROCESSORS[pipeline]) if field.name not in _NOT_SAVED]


def _check_kinds(values: Mapping[str, Any], owner: type) -> None:
    """Refuse values that fields of a dataclass cannot have, which JSON may hold."""
    kinds = get_type_hints(owner)
    for name, value in values.items():
        if not _is_of_kind(value, kinds[name]):
            kind = kinds[name]
            raise UserError(f"{name}={value!r} is no {kind.__name__ if isinstance(kind, type) else kind}")


def _is_of_kind(value: object, kind: Any) -> bool:
    parts = get_args(kind)
    if get_origin(kind) is tuple:
        is_long_enough = isinstance(value, tuple) and len(value) == len(parts)
        return is_long_enough and all(map(_is_of_kind, value, parts))
    if parts:  # a union
        return any(_is_of_kind(value, part) for part in parts)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind


def _as_tuple(value: Any) -> Any:
    """JSON's and Hydra's lists are the tuples they were."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
