"""Visual entailment: does an image, with or without its caption, imply a sentence?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ofa.processors.base import Prompt, PromptError
from ofa.processors.closed import ClosedAnswerProcessor
from ofa.text import clean_caption, cut_words

_WITH_CAPTION = 'can image and text1 " {caption} " imply text2 " {hypothesis} "?'
_WITHOUT_CAPTION = 'does the image describe " {hypothesis} "?'
ANSWERS = {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}
LABELS = {answer: label for label, answer in ANSWERS.items()}


@dataclass(frozen=True, kw_only=True)
class EntailmentProcessor(ClosedAnswerProcessor):
    """Three answers: yes, maybe, no.

    Args:
        use_caption: ask about image and caption together, as the published models were trained.
    """

    pipeline = "visual-entailment"
    texts = {"text": True, "caption": False}

    use_caption: bool = True

    answers: ClassVar[tuple[str, ...]] = tuple(ANSWERS.values())

    def ask(self, hypothesis: str, caption: str | None) -> Prompt:
        """The question whether an image, and its caption where that is used, imply a hypothesis.

        Raises:
            QuestionError: the hypothesis is empty, or a caption that is to be used.
        """
        hypothesis, notes = cut_words(clean_caption, hypothesis, self.max_words)
        if not hypothesis:
            raise PromptError("the hypothesis is empty")
        if not self.use_caption:
            return self.question(_WITHOUT_CAPTION.format(hypothesis=hypothesis), (hypothesis, ""), notes)
        caption, caption_notes = cut_words(clean_caption, caption or "", self.max_words)
        if not caption:
            raise PromptError("the caption is empty, and use_caption=true asks about it")
        prompt = _WITH_CAPTION.format(hypothesis=hypothesis, caption=caption)
        return self.question(prompt, (hypothesis, caption), (*notes, *caption_notes))
