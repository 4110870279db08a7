"""Reading every published form of OFA's weights, and writing our own. Nothing in a file is executed.

The forms: files of the original trainer, folders as on Hugging Face and ModelScope, bare state dicts, and our own runs
and export folders. `python -m ofa.checkpoint inspect FILE` tells what a file is.
"""

from ofa.checkpoint.content import Checkpoint
from ofa.checkpoint.exporting import export
from ofa.checkpoint.loading import load, load_model, load_weights, model_of, read_config, read_task
from ofa.checkpoint.places import (
    BEST,
    EXPORT,
    LAST,
    TOKENIZER,
    find,
    kept_tokenizer,
    tokenizer_folder,
    weight_files,
)
from ofa.checkpoint.task_settings import TaskSettings
from ofa.checkpoint.vocabularies import check_vocabulary

__all__ = [
    "BEST",
    "EXPORT",
    "LAST",
    "TOKENIZER",
    "Checkpoint",
    "TaskSettings",
    "check_vocabulary",
    "export",
    "find",
    "kept_tokenizer",
    "load",
    "load_model",
    "load_weights",
    "model_of",
    "read_config",
    "read_task",
    "tokenizer_folder",
    "weight_files",
]
