"""Options of generation: `GenerationOptions` for beam search, `SamplingOptions`."""

from collections.abc import Sequence
from dataclasses import dataclass

from ofa.errors import UserError
from ofa.generation.prefix_tree import PrefixTree
from ofa.vocabulary import VOCABULARY_SIZE


@dataclass(frozen=True)
class SequenceOptions:
    """Common options of beam search and sampling; lengths count tokens without `</s>`.

    Construction raises UserError for values that allow no sequence.
    """

    max_len: int = 16  # at this length `</s>` is forced
    prefix_counts_toward_max_len: bool = True  # False for prefixes that are a prompt
    min_len: int = 0  # before this length `</s>` is forbidden
    temperature: float = 1.0
    constraint_range: tuple[int, int] | None = None  # the allowed ids besides `</s>`, [first, end)
    prefix_tree: PrefixTree | None = None  # the closed set of answers
    softmax_over_tree: bool = True  # over its next tokens; False for a model that was trained without the tree

    def __post_init__(self) -> None:
        self._check_whole("max_len", "min_len")
        if not 0 <= self.min_len <= self.max_len or self.max_len < 1:
            raise UserError(
                f"min_len={self.min_len} and max_len={self.max_len}: 0 <= min_len <= max_len and 1 <= max_len"
            )
        if self.temperature <= 0:
            raise UserError(f"temperature={self.temperature} is not positive")
        check_constraint_range(self.constraint_range)
        if self.constraint_range is not None and self.prefix_tree is not None:
            raise UserError(
                f"constraint_range={self.constraint_range} and prefix_tree: the tree already restricts the tokens; "
                f"leave one of the two out"
            )

    def _check_whole(self, *names: str) -> None:
        for name in names:
            if not isinstance(getattr(self, name), int):
                raise UserError(f"{name}={getattr(self, name)} is not a whole number")


@dataclass(frozen=True)
class GenerationOptions(SequenceOptions):
    """Options of beam search.

    >>> GenerationOptions(beam_size=3, max_len=10).length_penalty
    1.0
    """

    beam_size: int = 5  # hypotheses kept for each sample; 1 is greedy
    no_repeat_ngram_size: int = 0  # no n-gram of this length occurs twice in a hypothesis; 0 allows all
    length_penalty: float = 1.0  # final score = sum of log-probabilities / length ** length_penalty
    normalize_scores: bool = True  # False leaves the sum as it is

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_whole("beam_size", "no_repeat_ngram_size")
        if self.beam_size < 1:
            raise UserError(f"beam_size={self.beam_size}: a search keeps at least 1 hypothesis")
        if self.no_repeat_ngram_size < 0:
            raise UserError(f"no_repeat_ngram_size={self.no_repeat_ngram_size} is negative; 0 allows repetition")


@dataclass(frozen=True)
class SamplingOptions(SequenceOptions):
    """Options of sampling; temperature acts before `top_k`, and that before `top_p`; None draws from all tokens."""

    top_k: int | None = None  # draw from this many most likely tokens
    top_p: float | None = None  # from the smallest set of most likely tokens of this probability (arXiv 1904.09751)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k is not None:
            self._check_whole("top_k")
            if self.top_k < 1:
                raise UserError(f"top_k={self.top_k} leaves nothing to draw; None draws from all")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} is not in (0, 1]; None draws from all")
        if self.min_len > 0 and self.prefix_tree is not None:
            raise UserError(
                f"min_len={self.min_len} and prefix_tree: a sample that follows the tree to a shorter answer could not "
                "end; leave min_len=0"
            )


def check_constraint_range(constraint_range: Sequence[int] | None) -> None:
    """Raises UserError unless it is None or [first, end) with ids from 4 to the end of the vocabulary."""
    if constraint_range is None:
        return
    is_pair = isinstance(constraint_range, Sequence) and len(constraint_range) == 2
    if not is_pair or not 4 <= constraint_range[0] < constraint_range[1] <= VOCABULARY_SIZE:
        raise UserError(
            f"constraint_range={constraint_range} is not [first, end) with 4 <= first < end <= {VOCABULARY_SIZE}"
        )
