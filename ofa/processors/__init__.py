"""The model's side of each task: inputs to prompts, tokens to answers. `PROCESSORS` has them by pipeline name."""

from ofa.processors.base import PROCESSORS, ImageProcessor, Processor, Prompt, PromptError, SettingError
from ofa.processors.captioning import CaptionProcessor
from ofa.processors.entailment import EntailmentProcessor
from ofa.processors.grounding import GroundingProcessor
from ofa.processors.question_answering import QuestionProcessor

__all__ = [
    "PROCESSORS", "CaptionProcessor", "EntailmentProcessor", "GroundingProcessor", "ImageProcessor", "Processor",
    "Prompt", "PromptError", "QuestionProcessor", "SettingError",
]  # fmt: skip
