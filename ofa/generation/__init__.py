"""Turning encoder states into sequences: `generate` and its options."""

from ofa.generation.beam_search import Hypothesis, generate
from ofa.generation.options import GenerationOptions

__all__ = ["GenerationOptions", "Hypothesis", "generate"]
