"""OFA as a library: the model, its tokenizer, generation and checkpoints; neither Lightning nor Hydra is needed."""

from ofa.checkpoint import load
from ofa.config import OFAConfig
from ofa.generation import GenerationOptions, generate
from ofa.model import OFAModel
from ofa.pipeline import pipeline

__all__ = ["GenerationOptions", "OFAConfig", "OFAModel", "generate", "load", "pipeline"]
