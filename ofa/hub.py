"""What is meant for Hugging Face's hub, and what for this machine."""

from __future__ import annotations

import re
from pathlib import Path

SUFFIXES = (".pt", ".pth", ".pkl", ".bin", ".ckpt", ".safetensors")  # of weights in a single file


def is_hub_id(given: str) -> bool:
    """Whether it can only be meant for Hugging Face: two words, the first of which is no folder here."""
    is_pair = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", given) is not None
    return is_pair and not given.endswith(SUFFIXES) and not Path(given).parent.is_dir()
