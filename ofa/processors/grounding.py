"""Visual grounding: the region that a text describes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ofa.errors import UserError
from ofa.generation import GenerationOptions, Hypothesis
from ofa.images import Box, bins_to_boxes, boxes_to_bins, resize_ratios
from ofa.processors.base import ImageProcessor, Prompt, PromptError, SettingError
from ofa.tokenizer import clean_caption, cut_words
from ofa.vocabulary import BIN_OFFSET, BINS, N_BINS

BOX_TOKENS = 4


@dataclass(frozen=True, kw_only=True)
class GroundingProcessor(ImageProcessor):
    """Boxes, written as four bins. Both sizes have to be equal, or part of the bins could never be used."""

    pipeline = "visual-grounding"
    prompt = 'which region does the text " {text} " describe?'
    text_inputs = {"text": True}
    original_name = "refcoco"
    original_settings = {"max_src_length": "max_words", "max_image_size": "max_image_size"}
    fixed_generation = ("max_len", "min_len")  # a box is four bins

    image_size: int = 512
    max_image_size: int = 512  # pixels that bin 999 stands for
    max_words: int = 80  # words of an expression that are read

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size != self.max_image_size:
            raise SettingError(
                f"@image_size is {self.image_size} but @max_image_size is {self.max_image_size}, "
                "so boxes and bins would not cover the same range; set both to the same number of pixels"
            )

    @property
    def generation(self) -> GenerationOptions:
        """Beam search for exactly four of the bins."""
        return GenerationOptions(beam_size=5, max_len=BOX_TOKENS, min_len=BOX_TOKENS, constraint_range=BINS)

    def build_prompt(self, text: str) -> Prompt:
        """The prompt for the region of an expression."""
        text, cut = cut_words(clean_caption, text, self.max_words)
        source, notes = self.encode_prompt(self.prompt.format(text=text))
        return Prompt(source, (text,), notes=(*cut, *notes))

    def build_user_prompt(self, text: str) -> Prompt:
        prompt = self.build_prompt(text)
        if not prompt.texts[0]:
            raise PromptError("the text is empty: name the object to find")
        return prompt

    def postprocess(self, hypothesis: Hypothesis, width: int, height: int) -> Box:
        """The box that the first four tokens write, in pixels of the image; UserError if they are not bins."""
        bins = [token - BIN_OFFSET for token in hypothesis.tokens[:BOX_TOKENS]]
        if len(bins) < BOX_TOKENS or not all(0 <= number < N_BINS for number in bins):
            raise UserError(
                f"the tokens {hypothesis.tokens} are not a box of {BOX_TOKENS} bins; "
                f"generate with max_len and min_len {BOX_TOKENS} and constraint_range {BINS}"
            )
        ratios = resize_ratios(self.image_size, width, height)
        return tuple(bins_to_boxes(torch.tensor(bins), ratios, self.max_image_size).tolist())

    def respond(self, hypotheses: Sequence[Hypothesis], width: int, height: int) -> dict[str, Any]:
        """{"boxes": [[x0, y0, x1, y1]] in pixels of the image, "scores": [score]}."""
        best = hypotheses[0]
        return {"boxes": [list(self.postprocess(best, width, height))], "scores": [math.exp(best.score)]}

    def encode_box(self, box: Box, width: int, height: int) -> list[int]:
        """The four ids that write a box in pixels of an image of `width` x `height`."""
        bins = boxes_to_bins(torch.tensor(box), resize_ratios(self.image_size, width, height), self.max_image_size)
        return (bins + BIN_OFFSET).tolist()
