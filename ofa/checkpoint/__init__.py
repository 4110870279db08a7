"""Reading every published format of OFA's weights without executing code, and writing our own."""

from ofa.checkpoint.exporting import convert, export
from ofa.checkpoint.files import (
    BEST,
    EXPORT,
    LAST,
    TOKENIZER,
    find,
    kept_tokenizer,
    read_file,
    read_outline,
    tokenizer_folder,
    weight_files,
)
from ofa.checkpoint.formats import Checkpoint
from ofa.checkpoint.loading import check_vocabulary, load, load_model, load_weights, model_of, read_config, read_task
from ofa.checkpoint.task_settings import TaskSettings

__all__ = [
    "BEST", "EXPORT", "LAST", "TOKENIZER", "Checkpoint", "TaskSettings", "check_vocabulary", "convert", "export",
    "find", "kept_tokenizer", "load", "load_model", "load_weights", "model_of", "read_config", "read_file",
    "read_outline", "read_task", "tokenizer_folder", "weight_files",
]  # fmt: skip
