"""Visual question answering, out of a list of answers or freely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ofa.answers import read_answers
from ofa.generation import GenerationOptions, PrefixTree
from ofa.processors.base import Prompt, PromptError, SettingError
from ofa.processors.closed import ClosedAnswerProcessor
from ofa.text import clean_question, cut_words

_MAX_OPEN_ANSWER = 10  # tokens of an answer that is in no list


@dataclass(frozen=True, kw_only=True)
class QuestionProcessor(ClosedAnswerProcessor):
    """Questions about an image.

    Args:
        constrained: give answers of the list alone; false leaves them open.
        answer_list: all answers that may be given, or the JSON file of them.
        use_objects: name the objects found in the image behind the question.
        max_objects: how many of them.

    Raises:
        SettingError: the list is missing, or all candidates are to be scored without one.
        UserError: the list cannot be read.
    """

    pipeline = "visual-question-answering"
    texts = {"text": True, "objects": False}
    keeps_answers = True

    constrained: bool = True
    answer_list: str | Path | Sequence[str] | None = None
    use_objects: bool = True
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

    @property
    def generation(self) -> GenerationOptions:
        if self.tree is None:
            return GenerationOptions(
                beam_size=5, max_len=_MAX_OPEN_ANSWER, prefix_counts_toward_max_len=False, normalize_scores=False
            )
        return super().generation

    def ask(self, text: str, objects: Sequence[str] = ()) -> Prompt:
        """The question, with the names of objects in the image behind it where they are used.

        Raises:
            QuestionError: the question is empty.
        """
        text, cut = cut_words(clean_question, text, self.max_words)
        if not text.rstrip("?"):
            raise PromptError("the question is empty")
        names = objects[: self.max_objects] if self.use_objects else ()
        return self.question(f"{text} object: {' '.join(names)}" if names else text, (text,), cut)
