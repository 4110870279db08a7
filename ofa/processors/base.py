"""The base of all processors: `Processor`, and `ImageProcessor` for inputs with an image.

A processor builds the prompt, generates, and turns tokens into an answer. It knows neither files nor ground truth. A
task has a processor and adds rows and scores; a pipeline has one and adds user input.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor

from ofa.errors import UserError
from ofa.generation import GenerationOptions, Hypothesis, PrefixTree, best_candidates, generate
from ofa.images import ImageTransform
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer
from ofa.vocabulary import BOS, EOS, PAD

CANDIDATES = 5  # best-scored answers that are returned
PROCESSORS: dict[str, type[ImageProcessor]] = {}  # by pipeline name; a class enters when it is defined


class PromptError(UserError):
    """Inputs that do not make a prompt."""


class SettingError(UserError):
    """A setting with an impossible value; @ in its message stands for where a user finds the setting."""

    def __init__(self, message: str) -> None:
        super().__init__(message.replace("@", ""))
        self._message = message

    def within(self, place: str) -> UserError:
        """The same error about settings with `place` in front, such as "task."."""
        return UserError(self._message.replace("@", place))


@dataclass(frozen=True)
class Prompt:
    """What the model reads in addition to an image."""

    source: list[int]  # <s> prompt </s>
    texts: tuple[str, ...] = ()  # the cleaned texts in the prompt
    prefix: Sequence[int] = ()  # what the decoder reads between <s> and the answer
    notes: tuple[str, ...] = ()  # kinds of harmless repairs, such as "prompt cut to 1024 tokens"


class Processor(ABC):
    """Prompt, generation and postprocessing of one task."""

    # The name in `ofa.pipeline` and task.json; None: exported models have no task.json.
    pipeline: ClassVar[str | None] = None
    prompt: ClassVar[str] = ""  # with {text} in the place of a given text
    text_inputs: ClassVar[Mapping[str, bool]] = {}  # texts in addition to the image by name; whether each is required
    original_name: ClassVar[str | None] = None  # of the task, in checkpoints of the original trainer
    original_settings: ClassVar[Mapping[str, str]] = {}  # options of the original trainer that are settings here
    fixed_generation: ClassVar[tuple[str, ...]] = ()  # options without which answers would be invalid
    has_answer_list: ClassVar[bool] = False  # whether each model has its own list of possible answers
    # The possible answers, where they are a closed set: training and generation allow no others.
    tree: ClassVar[PrefixTree | None] = None
    scores_candidates: ClassVar[bool] = False  # whether every answer of `tree` is scored, instead of a beam search

    def __init_subclass__(cls) -> None:
        """Registers the class by its own pipeline name; TypeError if another class has this name."""
        super().__init_subclass__()
        if (name := vars(cls).get("pipeline")) is not None:
            other = PROCESSORS.setdefault(name, cls)
            if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                raise TypeError(f"{cls.__module__}.{cls.__qualname__}: {other} has the pipeline name {name!r}, too")
            PROCESSORS[name] = cls

    @property
    @abstractmethod
    def generation(self) -> GenerationOptions:
        """How the published evaluation generates an answer."""

    @abstractmethod
    def build_prompt(self, *inputs: Any) -> Prompt:
        """The prompt for the texts of one sample; PromptError if they make none."""

    @abstractmethod
    def postprocess(self, hypothesis: Hypothesis, *context: Any) -> Any:
        """The answer that a hypothesis writes."""

    def build_user_prompt(self, *texts: str | None) -> Prompt:
        """The prompt for the texts a user gives, in the order of `text_inputs`; PromptError if they make none."""
        return self.build_prompt(*texts)

    def respond(self, hypotheses: Sequence[Hypothesis], width: int, height: int) -> dict[str, Any]:
        """What a pipeline returns, from the best hypotheses and the size of the image in pixels."""
        best = hypotheses[0]
        return {"text": str(self.postprocess(best)), "score": math.exp(best.score)}

    def generate(
        self,
        model: OFAModel,
        inputs: Mapping[str, Tensor | None],
        prefix_tokens: Tensor | None,
        options: GenerationOptions,
    ) -> list[list[Hypothesis]]:
        """The best answers to each of B inputs, best first, without the decoder's prefix.

        Args:
            inputs: of the encoder, as for `ofa.generate`.
            prefix_tokens: [B, P], what the decoder reads after `<s>`, right-padded with 1; None: nothing.
            options: of the beam search, where there is one.
        """
        if self.scores_candidates:
            return best_candidates(model, inputs, self.tree, prefix_tokens, n=CANDIDATES)
        if prefix_tokens is None:
            return generate(model, inputs, options)
        lengths = (prefix_tokens != PAD).sum(dim=1).tolist()
        found = generate(model, inputs, options, prefix_tokens)
        return [  # a score is the sum of the answer's own log-probabilities
            [Hypothesis(h.tokens[n:], sum(h.token_scores[n:]), h.token_scores[n:]) for h in hypotheses]
            for hypotheses, n in zip(found, lengths, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class ImageProcessor(Processor):
    """A processor of an image, which is resized to a square; construction raises SettingError for impossible values."""

    tokenizer: Tokenizer
    image_size: int = 480  # side of the resized image in pixels
    max_source_tokens: int = 1024  # ids of a source; by default the size of the position table
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of each color channel, for normalization
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if self.image_size < 16:
            raise SettingError(f"@image_size={self.image_size} is less than one patch of 16 pixels")
        if not 3 <= self.max_source_tokens <= 1024:
            raise SettingError(f"@max_source_tokens={self.max_source_tokens} is not between 3 and the model's 1024")
        if not all(value > 0 for value in self.std):
            raise SettingError(f"@std={list(self.std)} has a value that is not above 0")

    def pixels(self, image: Image.Image) -> Tensor:
        """The model's input [3, image_size, image_size]."""
        return ImageTransform(self.image_size, self.mean, self.std)(image)

    def encode_prompt(self, prompt: str) -> tuple[list[int], tuple[str, ...]]:
        """`<s>` + prompt + `</s>`, at most `max_source_tokens` ids in all, and a note where that cut the prompt."""
        tokens = self.tokenizer.encode(prompt)
        room = self.max_source_tokens - 2
        notes = (f"prompt cut to {self.max_source_tokens} tokens",) if len(tokens) > room else ()
        return [BOS, *tokens[:room], EOS], notes
