"""OFA as a library: model, tokenizer, generation, checkpoints and pipelines; needs neither Lightning nor Hydra."""

from ofa.checkpoint import load
from ofa.config import OFAConfig
from ofa.generation import GenerationOptions, generate
from ofa.model import OFAModel
from ofa.pipeline import pipeline

__version__ = "0.1.0"

__all__ = ["GenerationOptions", "OFAConfig", "OFAModel", "__version__", "generate", "load", "pipeline"]
