"""JSON files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ofa.errors import UserError


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: it holds something else, or cannot be read.
    """
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no readable JSON file ({error}); copy it again from the model") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no JSON object; copy it again from the model")
    return content
