"""Answers out of a known set: the prefix tree over the set, and the decoder's prefix."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ofa.generation import GenerationOptions, Hypothesis, PrefixTree
from ofa.processors.base import ImageProcessor, Prompt, SettingError
from ofa.vocabulary import EOS

PROMPT_TYPES = ("none", "src", "prev_output")
INFERENCES = ("all_candidates", "beam_search")


@dataclass(frozen=True, kw_only=True)
class ClosedAnswerProcessor(ImageProcessor):
    """A processor with a closed set of answers.

    What the decoder reads before the answer is, by `prompt_type`, nothing ("none"), the source ("src"), or the source
    without its `</s>` ("prev_output").
    """

    # These would count the decoder's prefix, too.
    fixed_generation = ("min_len", "no_repeat_ngram_size", "length_penalty", "normalize_scores")
    original_settings = {"max_src_length": "max_words", "prompt_type": "prompt_type"}

    max_words: int = 80  # words of each given text that are read, the "source length" of the published recipes
    max_source_tokens: int = 992  # less than the size of the position table, as an answer may follow the source
    prompt_type: str = "prev_output"
    inference: str = "all_candidates"  # score every answer of the set, or search among them

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_words < 1:
            raise SettingError(f"@max_words={self.max_words} leaves no text to read")
        if self.prompt_type not in PROMPT_TYPES:
            raise SettingError(f"@prompt_type={self.prompt_type} is not one of {', '.join(PROMPT_TYPES)}")
        if self.inference not in INFERENCES:
            raise SettingError(f"@inference={self.inference} is not one of {', '.join(INFERENCES)}")
        if (self.prompt_type, self.inference) == ("src", "beam_search"):
            raise SettingError(
                "@prompt_type=src ends the decoder's prefix in </s>, where a beam search ends, too; "
                "set @inference=all_candidates"
            )

    @property
    @abstractmethod
    def answers(self) -> Sequence[str]:
        """The closed set."""

    @cached_property
    def tree(self) -> PrefixTree | None:
        return PrefixTree(list(self._answer_of))

    @property
    def scores_candidates(self) -> bool:
        return self.inference == "all_candidates"

    @property
    def generation(self) -> GenerationOptions:
        """Beam search by the sum of log-probabilities, among the answers if there is a set."""
        lengths = {"max_len": 10 if self.tree is None else self.tree.longest, "prefix_counts_toward_max_len": False}
        return GenerationOptions(beam_size=5, normalize_scores=False, prefix_tree=self.tree, **lengths)

    def with_prefix(self, prompt: str, texts: tuple[str, ...], notes: tuple[str, ...]) -> Prompt:
        """A prompt made of cleaned texts, with what the decoder reads before the answer."""
        source, prompt_notes = self.encode_prompt(prompt)
        prefix = {"none": [], "src": source[1:], "prev_output": source[1:-1]}[self.prompt_type]
        return Prompt(source, texts, prefix, (*notes, *prompt_notes))

    def encode_answer(self, answer: str) -> list[int]:
        """The ids of an answer, with `</s>`; ValueError if it is not one of the set."""
        tokens = self.tokenizer.encode(answer)
        if self.tree is not None and tuple(tokens) not in self._answer_of:
            raise ValueError(f"the answer {answer!r} is not in the list of {len(self.answers)} answers")
        return [*tokens, EOS]

    def postprocess(self, hypothesis: Hypothesis) -> str:
        tokens = hypothesis.tokens
        return self.tokenizer.decode(tokens) if self.tree is None else self._answer_of[tuple(tokens[:-1])]

    @cached_property
    def _answer_of(self) -> dict[tuple[int, ...], str]:
        """By the ids of each, without `</s>`."""
        return {tuple(self.tokenizer.encode(answer)): answer for answer in self.answers}
