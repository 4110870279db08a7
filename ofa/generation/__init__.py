"""Turning encoder states into sequences: `generate` and its options, and the scores of a closed set of answers."""

from ofa.generation.beam_search import Hypothesis, generate
from ofa.generation.candidates import best_candidates, score_candidates
from ofa.generation.options import GenerationOptions
from ofa.generation.prefix_tree import PrefixTree

__all__ = ["GenerationOptions", "Hypothesis", "PrefixTree", "best_candidates", "generate", "score_candidates"]
