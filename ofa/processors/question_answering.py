"""Visual question answering, with or without a list of answers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ofa.answers import read_answers
from ofa.generation import Hypothesis, PrefixTree
from ofa.processors.base import Prompt, PromptError, SettingError
from ofa.processors.closed import ClosedAnswerProcessor
from ofa.tokenizer import clean_question, cut_words


@dataclass(frozen=True, kw_only=True)
class QuestionProcessor(ClosedAnswerProcessor):
    """Questions about an image."""

    pipeline = "visual-question-answering"
    text_inputs = {"text": True, "objects": False}
    has_answer_list = True
    original_name = "vqa_gen"
    original_settings = ClosedAnswerProcessor.original_settings | {
        "add_object": "use_objects",
        "max_object_length": "max_objects",
    }

    constrained: bool = True  # allow only answers of the list
    answer_list: str | Path | Sequence[str] | None = None  # all possible answers, or the JSON file of them
    use_objects: bool = True  # name the objects found in the image after the question
    max_objects: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.constrained and self.inference == "all_candidates":
            raise SettingError("@constrained=false leaves no candidates to score; set @inference=beam_search, too")
        if self.constrained and self.answer_list is None:
            raise SettingError("@answer_list=FILE has to be given, the JSON list of all answers")
        _ = self.answers  # reads the list now, before any work starts

    @cached_property
    def answers(self) -> Sequence[str]:
        if not self.constrained:
            return ()
        return read_answers(self.answer_list) if isinstance(self.answer_list, str | Path) else self.answer_list

    @cached_property
    def tree(self) -> PrefixTree | None:
        return super().tree if self.constrained else None

    def build_prompt(self, text: str, objects: Sequence[str] = ()) -> Prompt:
        """The question, followed by the names of objects where they are used; PromptError if it is empty."""
        text, cut = cut_words(clean_question, text, self.max_words)
        if not text.rstrip("?"):
            raise PromptError("the question is empty")
        names = objects[: self.max_objects] if self.use_objects else ()
        return self.with_prefix(f"{text} object: {' '.join(names)}" if names else text, (text,), cut)

    def build_user_prompt(self, text: str, objects: str | None) -> Prompt:
        """Objects are names separated by commas, where a detector has found any."""
        if objects and not self.use_objects:
            raise PromptError("this model reads no names of objects: leave objects out")
        names = [name.strip() for name in (objects or "").split(",")]
        return self.build_prompt(text, [name for name in names if name])

    def respond(self, hypotheses: Sequence[Hypothesis], width: int, height: int) -> dict[str, Any]:
        """{"text": the answer, "score", "answers": the best five and their scores}."""
        answers = {self.postprocess(h): math.exp(h.score) for h in reversed(hypotheses)}  # of equals the best
        best = self.postprocess(hypotheses[0])
        return {"text": best, "score": answers[best], "answers": dict(reversed(answers.items()))}
