"""Generation: beam search (`generate`), sampling (`sample`), and scores of a closed set of answers."""

from ofa.generation.beam_search import Hypothesis, generate
from ofa.generation.candidates import best_candidates, score_candidates
from ofa.generation.options import GenerationOptions, SamplingOptions
from ofa.generation.prefix_tree import PrefixTree
from ofa.generation.sampling import sample

__all__ = [
    "GenerationOptions", "Hypothesis", "PrefixTree", "SamplingOptions", "best_candidates", "generate", "sample",
    "score_candidates",
]  # fmt: skip
