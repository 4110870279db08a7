"""What loggers whose runs have ids keep in a run folder, to go on with the same run when training is resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def load_run_id(logger: str, interrupted: str | None) -> dict[str, Any]:
    """What `keep_run` was given in the run that is resumed; nothing where there is none, or it had no such logger.

    Args:
        logger: its name.
        interrupted: folder of the run that is resumed, if any.
    """
    if interrupted is None:
        return {}
    file = _file(logger, interrupted)
    return json.loads(file.read_text()) if file.is_file() else {}


def save_run_id(logger: str, folder: str, **known: Any) -> None:
    """Replace what is kept of a logger's run."""
    file = _file(logger, folder)
    new = file.with_suffix(".tmp")
    new.write_text(json.dumps(known))
    os.replace(new, file)  # not written through to the disk, for it may come with every update


def _file(logger: str, folder: str) -> Path:
    return Path(folder, f"{logger}.json")
