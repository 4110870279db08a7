"""Rows for tests: published column formats around real pictures."""

import base64
import io

import numpy as np
from PIL import Image

from data.tsv import Row


def picture(format="PNG", size=(60, 40), colour="orange", alphabet=base64.b64encode):
    """Base64 of an encoded picture of noise in one colour's shades."""
    pixels = np.asarray(Image.new("RGB", size, colour), dtype=np.int16)
    noise = np.random.default_rng(0).integers(-40, 40, pixels.shape)
    file = io.BytesIO()
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(file, format)
    return alphabet(file.getvalue()).decode()


def make_row(**values):
    return Row(values={"uniq_id": "7", "image": picture(), **values}, source="train.tsv", number=3)
