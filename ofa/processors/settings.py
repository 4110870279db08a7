"""A processor as plain values, stored next to a model's weights, and back."""

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

_NOT_SAVED = ("tokenizer", "answer_list")  # they are files of their own, or separate fields


def to_task_settings(processor: ImageProcessor, options: GenerationOptions) -> TaskSettings | None:
    """The settings of a processor, and the generation options that differ from its own; None without a pipeline."""
    if processor.pipeline is None:
        return None
    own = processor.generation
    generation = {
        field.name: _as_tuple(getattr(options, field.name))
        for field in dataclasses.fields(options)
        if field.name != "prefix_tree" and getattr(options, field.name) != getattr(own, field.name)
    }
    answers = tuple(processor.answers) if processor.has_answer_list else ()
    settings = {name: _as_tuple(getattr(processor, name)) for name in _saved_names(type(processor))}
    return TaskSettings(processor.pipeline, settings, generation, answers or None)


def from_task_settings(
    task: TaskSettings, tokenizer: Tokenizer, source: str | Path
) -> tuple[ImageProcessor, GenerationOptions]:
    """The processor and generation options that settings describe; unknown settings are logged and ignored.

    An impossible value raises UserError, which names `source`.
    """
    kind = PROCESSORS[task.pipeline]
    names = _saved_names(kind)
    unknown = sorted(set(task.settings) - set(names))
    if unknown:
        log.info("settings that %s does not have: %s", task.pipeline, ", ".join(unknown))
    settings = {name: _as_tuple(value) for name, value in task.settings.items() if name in names}
    changes = {name: _as_tuple(v) for name, v in task.generation.items() if name not in kind.fixed_generation}
    try:
        _check_types(settings, kind)
        _check_types(changes, GenerationOptions)
        if kind.has_answer_list:
            openly = {"constrained": False, "inference": "beam_search"}
            settings |= {"answer_list": task.answers} if task.answers else openly
        processor = kind(tokenizer=tokenizer, **settings)
        return processor, dataclasses.replace(processor.generation, **changes)
    except UserError as error:
        raise UserError(f"the task settings of {source} cannot be used: {error}") from error


def _saved_names(kind: type[ImageProcessor]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.name not in _NOT_SAVED]


def _check_types(values: Mapping[str, Any], owner: type) -> None:
    """Refuse values of JSON that fields of a dataclass cannot have."""
    kinds = get_type_hints(owner)
    for name, value in values.items():
        kind = kinds[name]
        if not _is_of_type(value, kind):
            raise UserError(f"{name}={value!r} is not of type {kind.__name__ if isinstance(kind, type) else kind}")


def _is_of_type(value: object, kind: Any) -> bool:
    parts = get_args(kind)
    if get_origin(kind) is tuple:
        is_long_enough = isinstance(value, tuple) and len(value) == len(parts)
        return is_long_enough and all(map(_is_of_type, value, parts))
    if parts:  # a union
        return any(_is_of_type(value, part) for part in parts)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind


def _as_tuple(value: Any) -> Any:
    """The lists of JSON and Hydra as tuples."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
