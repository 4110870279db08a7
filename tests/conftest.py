"""Fixtures that tests of several rooms share."""

import os
from pathlib import Path

import pytest

from ofa.tokenizer import Tokenizer

SHARED_TOKENIZER = Path(__file__).parents[2] / "shared" / "tokenizer"


@pytest.fixture(scope="session")
def published_tokenizer() -> Tokenizer:
    """The published English vocabulary, which the project does not contain."""
    folder = Path(os.environ.get("OFA_TOKENIZER", SHARED_TOKENIZER))
    if not folder.is_dir():
        pytest.skip(f"no published vocab.json and merges.txt at {folder}; set OFA_TOKENIZER to their folder")
    return Tokenizer.from_pretrained(folder)
