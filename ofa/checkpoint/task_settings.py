"""What an exported model was trained to do, and how it is asked: `TaskSettings`, kept as task.json beside it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ofa.answers import order_answers, read_answers
from ofa.checkpoint.json_files import read_json
from ofa.config import did_you_mean
from ofa.errors import UserError
from ofa.generation.options import GenerationOptions
from ofa.processors import PROCESSORS

TASK = "task.json"
# Pipelines that a model may be for, without a processor yet.
PLANNED = ("text-to-image", "image-classification", "summarization", "text-classification", "ocr")
# Of the pixels of a task whose recipe takes ImageNet's statistics.
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


class UnknownPipeline(UserError):
    """A pipeline name without a registered processor."""


@dataclass(frozen=True)
class TaskSettings:
    """The task of a model.

    Attributes:
        pipeline: name of its processor in PROCESSORS, or one of PLANNED.
        settings: how inputs are made, such as image_size, max_words or prompt_type; JSON values.
        generation: fields of GenerationOptions that differ from the task's own.
        answers: the only ones there are, in the order of their labels; None: any.

    Raises:
        UserError: at construction, for a pipeline or generation option that does not exist.
    """

    pipeline: str
    settings: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    answers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.pipeline not in (*PROCESSORS, *PLANNED):
            raise UnknownPipeline(
                f"no processor with the pipeline {self.pipeline!r} is registered"
                f"{did_you_mean(str(self.pipeline), PROCESSORS)}; import the module that defines it"
            )
        for key, value in (("settings", self.settings), ("generation", self.generation)):
            if not isinstance(value, dict):
                raise UserError(f"{key}={value!r} are no names with values")
        names = {option.name for option in dataclasses.fields(GenerationOptions)}
        for name in self.generation:
            if name not in names:
                raise UserError(f"generation has no option {name!r}{did_you_mean(name, names)}")

    @property
    def lacks_answers(self) -> bool:
        """Whether its answers were those of a list, as far as it says, and the list is not there."""
        return self._has_answer_list and self.answers is None and bool(self.settings.get("constrained", True))

    def with_answers(self, file: str | Path) -> TaskSettings:
        """The same with the answers of a file, as `ofa.answers.read_answers` reads it, and no others.

        Raises:
            UserError: they cannot be read, or the task has answers of another kind.
        """
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
        """As `to_json` wrote it.

        Raises:
            UserError: the file holds something else.
        """
        return cls.from_values(read_json(file), file)

    @classmethod
    def from_values(cls, values: object, source: Path) -> TaskSettings:
        """Of fields and their values, which are from `source`.

        Raises:
            UserError: they do not describe a task.
        """
        try:
            settings = cls(**values)
        except UnknownPipeline as error:
            raise UnknownPipeline(f"{source}: {error}") from error
        except (TypeError, UserError) as error:
            raise UserError(f"{source} does not describe a task ({error}); export the model again") from error
        answers = settings.answers
        if answers is None:
            return settings
        if not isinstance(answers, list | tuple):
            raise UserError(f"{source} does not describe a task (answers={answers!r}); export the model again")
        ordered = order_answers([(answer, index) for index, answer in enumerate(answers)], source)
        return dataclasses.replace(settings, answers=tuple(ordered))
