"""Visual entailment: whether an image, with or without its caption, implies a sentence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ofa.generation import Hypothesis
from ofa.processors.base import Prompt, PromptError
from ofa.processors.closed import ClosedAnswerProcessor
from ofa.tokenizer import clean_caption, cut_words

_WITH_CAPTION = 'can image and text1 " {caption} " imply text2 " {hypothesis} "?'
_WITHOUT_CAPTION = 'does the image describe " {hypothesis} "?'
ANSWERS = {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}
LABELS = {answer: label for label, answer in ANSWERS.items()}


@dataclass(frozen=True, kw_only=True)
class EntailmentProcessor(ClosedAnswerProcessor):
    """Three answers: yes, maybe, no."""

    pipeline = "visual-entailment"
    text_inputs = {"text": True, "caption": False}
    original_name = "snli_ve"
    original_settings = {**ClosedAnswerProcessor.original_settings, "add_caption": "use_caption"}

    use_caption: bool = True  # put the caption into the prompt, as the published models were trained

    answers: ClassVar[tuple[str, ...]] = tuple(ANSWERS.values())

    def build_prompt(self, hypothesis: str, caption: str | None) -> Prompt:
        """Whether an image, and its caption where that is used, imply a hypothesis; PromptError if one is empty."""
        hypothesis, notes = cut_words(clean_caption, hypothesis, self.max_words)
        if not hypothesis:
            raise PromptError("the hypothesis is empty")
        if not self.use_caption:
            return self.with_prefix(_WITHOUT_CAPTION.format(hypothesis=hypothesis), (hypothesis, ""), notes)
        caption, caption_notes = cut_words(clean_caption, caption or "", self.max_words)
        if not caption:
            raise PromptError("the caption is empty, but use_caption=true puts it into the prompt")
        prompt = _WITH_CAPTION.format(hypothesis=hypothesis, caption=caption)
        return self.with_prefix(prompt, (hypothesis, caption), (*notes, *caption_notes))

    def build_user_prompt(self, text: str, caption: str | None) -> Prompt:
        if caption is None and self.use_caption:
            raise PromptError("this model reads the image's caption, too: give caption=...")
        if caption is not None and not self.use_caption:
            raise PromptError("this model reads no caption: leave caption out")
        return self.build_prompt(text, caption)

    def respond(self, hypotheses: Sequence[Hypothesis], width: int, height: int) -> dict[str, Any]:
        """{"label": entailment, neutral or contradiction, "score", "labels": the score of all three}."""
        labels = {LABELS[self.postprocess(h)]: math.exp(h.score) for h in hypotheses}
        best = next(iter(labels))
        return {"label": best, "score": labels[best], "labels": labels}
