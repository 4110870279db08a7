"""What every processor has: `Processor`, and the picture and prompt of those about an image, `ImageProcessor`.

A processor is the model's side of a task: how a question is put to the model (prompt, decoder's prompt, picture), how
its answer is searched, and how the tokens of an answer are read. It knows neither files nor truths: tasks add rows and
scores to it, pipelines what a user gives them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image
from torch import Tensor

from ofa.errors import UserError
from ofa.generation import GenerationOptions, Hypothesis, PrefixTree, best_candidates, generate
from ofa.images import ImageTransform
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer
from ofa.vocabulary import BOS, EOS, PAD

CANDIDATES = 5  # of all that are scored, that come back


class PromptError(UserError):
    """A question that cannot be put to the model."""


class SettingError(UserError):
    """A setting that no processor can have.

    Args:
        message: with @ in front of the name of each setting, which stands for where a user finds it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.replace("@", ""))
        self._message = message

    def within(self, place: str) -> UserError:
        """The same about settings with `place` in front, such as "task."."""
        return UserError(self._message.replace("@", place))


@dataclass(frozen=True)
class Prompt:
    """What the model reads beside an image."""

    source: list[int]  # <s> prompt </s>
    texts: tuple[str, ...] = ()  # that the prompt was made of, cleaned
    prefix: Sequence[int] = ()  # what the decoder reads behind <s> and in front of the answer
    notes: tuple[str, ...] = ()  # kinds of harmless repairs, such as "prompt cut to 1024 tokens"


class Processor(ABC):
    """How a question is put to a model, and its answer found."""

    pipeline: ClassVar[str]
    """The name under which `ofa.pipeline` offers it."""

    fixed_generation: ClassVar[tuple[str, ...]] = ()
    """Options of `generation` that cannot be changed without making answers that are none."""

    tree: PrefixTree | None = None
    """The answers, where there is a closed set of them: training and generation allow no other."""

    scores_candidates: bool = False
    """Whether an answer is found by scoring each one of `tree`, instead of by beam search."""

    @property
    @abstractmethod
    def generation(self) -> GenerationOptions:
        """How the published evaluation generates an answer."""

    def search(
        self,
        model: OFAModel,
        inputs: Mapping[str, Tensor | None],
        prefix_tokens: Tensor | None,
        options: GenerationOptions,
    ) -> list[list[Hypothesis]]:
        """The best answers of the model to each of B questions, best first, without the decoder's prompt.

        Args:
            model: in evaluation mode.
            inputs: of the encoder, as for `generate`.
            prefix_tokens: [B, P], what the decoder reads behind `<s>`, right-padded with 1; None: nothing.
            options: of the beam search, where there is one.
        """
        if self.scores_candidates:
            return best_candidates(model, inputs, self.tree, prefix_tokens, n=CANDIDATES)
        if prefix_tokens is None:
            return generate(model, inputs, options)
        lengths = (prefix_tokens != PAD).sum(dim=1).tolist()
        found = generate(model, inputs, options, prefix_tokens)
        return [[_without_prompt(h, n) for h in hypotheses] for hypotheses, n in zip(found, lengths, strict=True)]


def _without_prompt(hypothesis: Hypothesis, length: int) -> Hypothesis:
    """What follows the first `length` tokens; its score is the sum of its own log-probabilities."""
    token_scores = hypothesis.token_scores[length:]
    return Hypothesis(hypothesis.tokens[length:], sum(token_scores), token_scores)


@dataclass(frozen=True, kw_only=True)
class ImageProcessor(Processor):
    """Of questions about an image, which is resized to a square, its aspect not kept.

    Args:
        tokenizer: turns prompts and answers into ids.
        image_size: side of the resized picture in pixels.
        max_source_tokens: ids of a source; the default is what the position table has room for.
        mean, std: of each colour channel, for normalisation.

    Raises:
        SettingError: a size no model can read.
    """

    texts: ClassVar[Mapping[str, bool]] = {}
    """What a question has beside the image, by the names that pipelines give it, and whether it has to be given."""

    keeps_answers: ClassVar[bool] = False
    """Whether the answers are of a list that belongs to each model."""

    tokenizer: Tokenizer
    image_size: int = 480
    max_source_tokens: int = 1024
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if self.image_size < 16:
            raise SettingError(f"@image_size={self.image_size} is less than one patch of 16 pixels")
        if not 3 <= self.max_source_tokens <= 1024:
            raise SettingError(f"@max_source_tokens={self.max_source_tokens} is not between 3 and the model's 1024")
        if not all(value > 0 for value in self.std):
            raise SettingError(f"@std={list(self.std)} has a value that is not above 0")

    def pixels(self, image: Image.Image) -> Tensor:
        """The picture [3, image_size, image_size] as the model reads it."""
        return ImageTransform(self.image_size, self.mean, self.std)(image)

    def encode_prompt(self, prompt: str) -> tuple[list[int], tuple[str, ...]]:
        """`<s>` + prompt + `</s>`, at most `max_source_tokens` ids in all, and a note where that cut the prompt."""
        tokens = self.tokenizer.encode(prompt)
        room = self.max_source_tokens - 2
        notes = (f"prompt cut to {self.max_source_tokens} tokens",) if len(tokens) > room else ()
        return [BOS, *tokens[:room], EOS], notes
