"""Fixtures of several folders of tests."""

import base64
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.models import random_model, three_samples
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel

from ofa.tokenizer import Tokenizer

SHARED_TOKENIZER = Path(__file__).parents[2] / "shared" / "tokenizer"


@pytest.fixture(scope="module")
def model():
    """A micro model with random weights, in evaluation mode; tests leave it unchanged."""
    return random_model(init_std=0.1)


@pytest.fixture
def batch():
    """Inputs of three samples of different lengths, the last without an image."""
    return three_samples()


@pytest.fixture(scope="session")
def published_tokenizer() -> Tokenizer:
    """The published English vocabulary, which is not part of the project."""
    folder = Path(os.environ.get("OFA_TOKENIZER", SHARED_TOKENIZER))
    if not folder.is_dir():
        pytest.skip(f"no published vocab.json and merges.txt at {folder}; set OFA_TOKENIZER to their folder")
    return Tokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory) -> Path:
    """A folder with a byte-level vocabulary in place of a published one: each byte is a token and none are merged."""
    folder = tmp_path_factory.mktemp("vocabulary")
    letters = sorted(ByteLevel.alphabet())
    tokens = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, **{c: 4 + i for i, c in enumerate(letters)}, "<mask>": 50264}
    (folder / "vocab.json").write_text(json.dumps(tokens))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


@pytest.fixture(scope="session")
def refcoco_root(tmp_path_factory) -> Path:
    """A folder of refcoco_<split>.tsv in the published columns, with JPEG photos of a bright box on noise."""
    folder = tmp_path_factory.mktemp("refcoco_data")
    rng = np.random.default_rng(0)
    for split, rows in {"train": 8, "val": 5, "testA": 5, "testB": 3}.items():
        lines = [refcoco_line(rng, f"{split}{i}") for i in range(rows)]
        (folder / f"refcoco_{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def refcoco_line(rng: np.random.Generator, name: str) -> str:
    width, height = (120, 80) if rng.random() < 0.5 else (80, 120)
    pixels = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
    x0, y0 = (int(rng.integers(0, side // 2)) for side in (width, height))
    x1, y1 = x0 + 30, y0 + 25
    pixels[y0:y1, x0:x1] = rng.integers(180, 255, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    encode = base64.urlsafe_b64encode if rng.random() < 0.5 else base64.b64encode  # both occur in published files
    return "\t".join([name, "17", "The bright box", f"{x0},{y0},{x1},{y1}", encode(file.getvalue()).decode()])
