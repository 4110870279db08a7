"""Run ids of loggers, kept in the run folder so that a resumed run continues the same run of the logger."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def load_run_id(logger: str, interrupted: str | None) -> dict[str, Any]:
    """The values that the run in the folder `interrupted` gave to `save_run_id`; empty without it or its logger."""
    if interrupted is None:
        return {}
    file = Path(interrupted, f"{logger}.json")
    return json.loads(file.read_text()) if file.is_file() else {}


def save_run_id(logger: str, folder: str, **values: Any) -> None:
    """Replace the saved values of a logger's run."""
    new = Path(folder, f"{logger}.tmp")
    new.write_text(json.dumps(values))
    os.replace(new, new.with_suffix(".json"))  # without fsync, since this may be called in every step
