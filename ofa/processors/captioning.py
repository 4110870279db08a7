"""Image captioning: what does the image describe?"""

from __future__ import annotations

import string
from dataclasses import dataclass

from ofa.generation import GenerationOptions, Hypothesis
from ofa.processors.base import ImageProcessor, Prompt

PROMPT = "what does the image describe?"
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, kw_only=True)
class CaptionProcessor(ImageProcessor):
    """Captions of images."""

    pipeline = "image-captioning"

    @property
    def generation(self) -> GenerationOptions:
        return GenerationOptions(beam_size=5, max_len=16, no_repeat_ngram_size=3)

    def ask(self) -> Prompt:
        """The question, the same for every image."""
        source, notes = self.encode_prompt(PROMPT)
        return Prompt(source, notes=notes)

    def caption(self, hypothesis: Hypothesis) -> str:
        """The hypothesis as text, without punctuation."""
        return without_punctuation(self.tokenizer.decode(hypothesis.tokens))


def without_punctuation(text: str) -> str:
    """The text as captions are learnt and compared, without spaces at its ends."""
    return text.translate(_WITHOUT_PUNCTUATION).strip()
