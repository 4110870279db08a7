"""The model's side of each task: questions to prompts, tokens to answers; by the name of the pipeline."""

from ofa.processors.base import ImageProcessor, Processor, Prompt, PromptError, SettingError
from ofa.processors.captioning import CaptionProcessor
from ofa.processors.entailment import EntailmentProcessor
from ofa.processors.grounding import GroundingProcessor
from ofa.processors.question_answering import QuestionProcessor

PROCESSORS: dict[str, type[ImageProcessor]] = {
    processor.pipeline: processor
    for processor in (CaptionProcessor, GroundingProcessor, EntailmentProcessor, QuestionProcessor)
}

__all__ = [
    "PROCESSORS",
    "CaptionProcessor",
    "EntailmentProcessor",
    "GroundingProcessor",
    "ImageProcessor",
    "Processor",
    "Prompt",
    "PromptError",
    "QuestionProcessor",
    "SettingError",
]
