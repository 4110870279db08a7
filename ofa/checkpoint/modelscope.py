"""The task of a ModelScope folder, out of its configuration.json: `read_description`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ofa.answers import order_answers, read_answers
from ofa.checkpoint.json_files import read_json
from ofa.checkpoint.task_settings import IMAGENET, PLANNED, TaskSettings
from ofa.errors import UserError
from ofa.plain_pickle import load_plain_pickle
from ofa.processors import PROCESSORS

log = logging.getLogger(__name__)

DESCRIPTION = "configuration.json"

# ModelScope's names of tasks, where they differ from ours.
PIPELINE_OF = {
    "text-to-image-synthesis": "text-to-image",
    "text-summarization": "summarization",
    "ocr-recognition": "ocr",
}

# Beam options: ModelScope's name -> ours, and its value -> ours.
BEAM: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "beam_size": ("beam_size", int),
    "max_len_b": ("max_len", int),
    "min_len": ("min_len", int),
    "min_len_b": ("min_len", int),
    "no_repeat_ngram_size": ("no_repeat_ngram_size", int),
    "lenpen": ("length_penalty", float),
    "len_penalty": ("length_penalty", float),
    "unnormalized": ("normalize_scores", lambda value: not value),
    "normalize_scores": ("normalize_scores", bool),
    "temperature": ("temperature", float),
}
SETTINGS = {
    "patch_image_size": "image_size",
    "max_image_size": "max_image_size",
    "max_src_length": "max_words",
    "prompt_type": "prompt_type",
    "use_caption": "use_caption",
}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
READ = {*SETTINGS, "prompt", "language", "beam_search", "imagenet_default_mean_and_std", "gen_type", "answer2label"}
OF_NO_MATTER = {"type", "seed"}  # what says nothing of how the model is asked


def read_description(folder: Path) -> TaskSettings | None:
    """The task that the folder says it is for; None: one without a pipeline here.

    Raises:
        UserError: configuration.json, or the file of answers that it names, is not as expected.
    """
    file = folder / DESCRIPTION
    description = read_json(file)
    name, model = description.get("task"), description.get("model", {})
    if not isinstance(name, str) or not isinstance(model, dict):
        raise UserError(f"{file} names no task and model; copy it again from the model")
    pipeline = PIPELINE_OF.get(name, name)
    if pipeline not in (*PROCESSORS, *PLANNED):
        log.info("%s: there is no pipeline for %s; the weights can be used all the same", file, name)
        return None
    settings = {ours: model[theirs] for theirs, ours in SETTINGS.items() if theirs in model}
    if "imagenet_default_mean_and_std" in model:
        settings |= IMAGENET if model["imagenet_default_mean_and_std"] else HALF
    answers = None
    if "answer2label" in model:
        answers = _answers(folder, model["answer2label"], file)
        settings["inference"] = "beam_search"
    if model.get("gen_type") == "traverse":
        settings["inference"] = "all_candidates"
    beam = model.get("beam_search", {})
    if not isinstance(beam, dict):
        raise UserError(f"{file} says beam_search={beam!r}, which are no options; copy it again from the model")
    try:
        generation = {BEAM[key][0]: BEAM[key][1](value) for key, value in beam.items() if key in BEAM}
    except (TypeError, ValueError) as error:
        raise UserError(f"{file} has an option of beam_search that is no number: {error}; copy it again") from error
    if model.get("language", "en") != "en":
        log.warning("%s is of language %r; models are asked in English here", file, model["language"])
    prompt = str(model.get("prompt", "")).replace("{}", "{text}").strip()
    if prompt and (pipeline not in PROCESSORS or prompt != PROCESSORS[pipeline].prompt):
        log.warning("%s says prompt=%r, which is not used: %s asks by a prompt of its own", file, prompt, pipeline)
    unread = [f"{key}={model[key]!r}" for key in model if key not in READ | OF_NO_MATTER]
    unread += [f"beam_search.{key}={value!r}" for key, value in beam.items() if key not in BEAM]
    if unread:
        log.info("%s: not used: %s", file, ", ".join(unread))
    return TaskSettings(pipeline, settings, generation, answers)


def _answers(folder: Path, name: object, file: Path) -> tuple[str, ...]:
    """The answers of {"answer": label}, by their labels."""
    if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
        raise UserError(f"{file} names the answers {name!r}, which is no file beside it; copy it there from the model")
    if not name.endswith(".pkl"):
        return tuple(read_answers(folder / name))
    labels = load_plain_pickle(folder / name)
    return tuple(order_answers(list(labels.items()) if isinstance(labels, dict) else labels, folder / name))
