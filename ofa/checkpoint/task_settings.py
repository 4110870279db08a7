"""The task of an exported model and how it is prompted: `TaskSettings`, stored as task.json."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ofa.answers import order_answers, read_answers
from ofa.checkpoint.files import read_json
from ofa.config import did_you_mean
from ofa.errors import UserError
from ofa.generation.options import GenerationOptions
from ofa.plain_pickle import load_plain_pickle
from ofa.processors import PROCESSORS

log = logging.getLogger(__name__)

TASK = "task.json"
MODELSCOPE = "configuration.json"
# Names that a model may have although their pipelines do not exist yet.
PLANNED = ("text-to-image", "image-classification", "summarization", "text-classification", "ocr")
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # pixel statistics
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}

# Earlier versions stored the negation of prefix_counts_toward_max_len under this name.
NEGATED_PREFIX_COUNTS = "max_len_behind_prefix"


class UnknownPipeline(UserError):
    """A pipeline name without a registered processor."""


@dataclass(frozen=True)
class TaskSettings:
    """The task of a model; construction raises UserError for a pipeline or generation option that does not exist."""

    pipeline: str  # name of its processor in PROCESSORS, or one of PLANNED
    settings: dict[str, Any] = field(default_factory=dict)  # of the inputs, such as image_size; JSON values
    generation: dict[str, Any] = field(default_factory=dict)  # fields of GenerationOptions other than by default
    answers: tuple[str, ...] | None = None  # the closed set of answers by label; None: open-ended

    def __post_init__(self) -> None:
        if self.pipeline not in (*PROCESSORS, *PLANNED):
            raise UnknownPipeline(
                f"no processor with the pipeline {self.pipeline!r} is registered"
                f"{did_you_mean(str(self.pipeline), PROCESSORS)}; import the module that defines it"
            )
        for key, value in (("settings", self.settings), ("generation", self.generation)):
            if not isinstance(value, dict):
                raise UserError(f"{key}={value!r} does not map names to values")
        names = {option.name for option in dataclasses.fields(GenerationOptions)}
        for name in self.generation:
            if name not in names:
                raise UserError(f"generation has no option {name!r}{did_you_mean(name, names)}")

    @property
    def lacks_answers(self) -> bool:
        """Whether the model was trained on a closed set of answers that is not stored."""
        return self._has_answer_list and self.answers is None and bool(self.settings.get("constrained", True))

    def with_answers(self, file: str | Path) -> TaskSettings:
        """The same with the closed set of answers in a file; UserError if it cannot be read or the task has none."""
        if not self._has_answer_list:
            raise UserError(f"answers={file}: {self.pipeline} has no list of answers; leave it out")
        settings = {**self.settings, "constrained": True}
        return dataclasses.replace(self, settings=settings, answers=tuple(read_answers(file)))

    @property
    def _has_answer_list(self) -> bool:
        return self.pipeline in PROCESSORS and PROCESSORS[self.pipeline].has_answer_list

    def to_json(self) -> str:
        """The content of task.json."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, file: Path) -> TaskSettings:
        """The inverse of `to_json`; UserError if the file holds something else."""
        return cls.from_values(read_json(file), file)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], source: Path) -> TaskSettings:
        """From stored fields, also those of earlier versions; UserError, which names `source`, if they are invalid."""
        try:
            settings = cls(**_upgrade(values))
        except UnknownPipeline as error:
            raise UnknownPipeline(f"{source}: {error}") from error
        except (TypeError, UserError) as error:
            raise UserError(f"{source} does not describe a task ({error}); export the model again") from error
        if (answers := settings.answers) is None:
            return settings
        if not isinstance(answers, list | tuple):
            raise UserError(f"{source} does not describe a task (answers={answers!r}); export the model again")
        ordered = order_answers([(answer, index) for index, answer in enumerate(answers)], source)
        return dataclasses.replace(settings, answers=tuple(ordered))


def _upgrade(values: Mapping[str, Any]) -> dict[str, Any]:
    """Stored fields under their current names."""
    generation = values.get("generation")
    if not isinstance(generation, dict) or NEGATED_PREFIX_COUNTS not in generation:
        return dict(values)
    generation = dict(generation)
    generation["prefix_counts_toward_max_len"] = not generation.pop(NEGATED_PREFIX_COUNTS)
    return {**values, "generation": generation}


def from_fairseq(name: str | None, options: Mapping[str, Any]) -> TaskSettings | None:
    """The task from the options of the original trainer; None if there is no pipeline for it, or no name."""
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


# Names in folders of ModelScope -> ours: pipelines, options of beam search with the conversion of values, settings.
MODELSCOPE_PIPELINES = {
    "text-to-image-synthesis": "text-to-image", "text-summarization": "summarization", "ocr-recognition": "ocr",
}  # fmt: skip
BEAM_OPTIONS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "beam_size": ("beam_size", int), "max_len_b": ("max_len", int), "min_len": ("min_len", int),
    "min_len_b": ("min_len", int), "no_repeat_ngram_size": ("no_repeat_ngram_size", int),
    "lenpen": ("length_penalty", float), "len_penalty": ("length_penalty", float),
    "unnormalized": ("normalize_scores", lambda value: not value), "normalize_scores": ("normalize_scores", bool),
    "temperature": ("temperature", float),
}  # fmt: skip
MODELSCOPE_SETTINGS = {
    "patch_image_size": "image_size", "max_image_size": "max_image_size", "max_src_length": "max_words",
    "prompt_type": "prompt_type", "use_caption": "use_caption",
}  # fmt: skip
READ_KEYS = {
    *MODELSCOPE_SETTINGS, "prompt", "language", "beam_search", "imagenet_default_mean_and_std", "gen_type",
    "answer2label", "type", "seed",  # the last two do not affect predictions
}  # fmt: skip


def from_modelscope(folder: Path) -> TaskSettings | None:
    """The task in configuration.json of a ModelScope folder; None if there is no pipeline for it."""
    file = folder / MODELSCOPE
    description = read_json(file)
    name, model = description.get("task"), description.get("model", {})
    if not isinstance(name, str) or not isinstance(model, dict):
        raise UserError(f"{file} names no task and model; copy it again from the model")
    pipeline = MODELSCOPE_PIPELINES.get(name, name)
    if pipeline not in (*PROCESSORS, *PLANNED):
        log.info("%s: there is no pipeline for %s; only the weights can be used", file, name)
        return None
    settings = {ours: model[theirs] for theirs, ours in MODELSCOPE_SETTINGS.items() if theirs in model}
    if "imagenet_default_mean_and_std" in model:
        settings |= IMAGENET if model["imagenet_default_mean_and_std"] else HALF
    answers = None
    if "answer2label" in model:
        answers = _modelscope_answers(folder, model["answer2label"], file)
        settings["inference"] = "beam_search"
    if model.get("gen_type") == "traverse":
        settings["inference"] = "all_candidates"
    beam = model.get("beam_search", {})
    if not isinstance(beam, dict):
        raise UserError(f"{file} has beam_search={beam!r}, which does not map options to values; copy it again")
    try:
        options = [(BEAM_OPTIONS[key], value) for key, value in beam.items() if key in BEAM_OPTIONS]
        generation = {ours: convert(value) for (ours, convert), value in options}
    except (TypeError, ValueError) as error:
        raise UserError(f"{file} has an option of beam_search that is not a number: {error}; copy it again") from error
    if model.get("language", "en") != "en":
        log.warning("%s has language %r; prompts are English here", file, model["language"])
    prompt = str(model.get("prompt", "")).replace("{}", "{text}").strip()
    if prompt and (pipeline not in PROCESSORS or prompt != PROCESSORS[pipeline].prompt):
        log.warning("%s has prompt=%r, which is not used: %s has a fixed prompt", file, prompt, pipeline)
    unread = [f"{key}={model[key]!r}" for key in model if key not in READ_KEYS]
    unread += [f"beam_search.{key}={value!r}" for key, value in beam.items() if key not in BEAM_OPTIONS]
    if unread:
        log.info("%s: not used: %s", file, ", ".join(unread))
    return TaskSettings(pipeline, settings, generation, answers)


def _modelscope_answers(folder: Path, name: object, file: Path) -> tuple[str, ...]:
    """The answers in a file {"answer": label}, by label."""
    if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
        raise UserError(f"{file} names the answers {name!r}, which is not a file next to it; copy it from the model")
    if not name.endswith(".pkl"):
        return tuple(read_answers(folder / name))
    labels = load_plain_pickle(folder / name)
    return tuple(order_answers(list(labels.items()) if isinstance(labels, dict) else labels, folder / name))
