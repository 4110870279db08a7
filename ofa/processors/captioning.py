"""Image captioning."""

import string
from dataclasses import dataclass

from ofa.generation import GenerationOptions, Hypothesis
from ofa.processors.base import ImageProcessor, Prompt

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, kw_only=True)
class CaptionProcessor(ImageProcessor):
    """Captions of images."""

    pipeline = "image-captioning"
    prompt = "what does the image describe?"
    original_name = "caption"

    @property
    def generation(self) -> GenerationOptions:
        return GenerationOptions(beam_size=5, max_len=16, no_repeat_ngram_size=3)

    def build_prompt(self) -> Prompt:
        """The same prompt for every image."""
        source, notes = self.encode_prompt(self.prompt)
        return Prompt(source, notes=notes)

    def postprocess(self, hypothesis: Hypothesis) -> str:
        """The hypothesis as text, without punctuation."""
        return without_punctuation(self.tokenizer.decode(hypothesis.tokens))


def without_punctuation(text: str) -> str:
    """The text in the form in which captions are trained on and compared, without spaces at its ends."""
    return text.translate(_WITHOUT_PUNCTUATION).strip()
