"""Checkpoint files: written atomically, verified by checksums.

A checkpoint is a zip archive of tensors. Its directory comes last and holds a checksum of each entry, so reading the
file once detects one that was truncated or changed on disk.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ofa.atomic_write import FULL, atomic_write
from ofa.checkpoint import LAST, read_file
from ofa.errors import UserError

PREVIOUS = LAST.with_name("last.previous.ckpt")  # inside a run folder: the last checkpoint but one


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints atomically; keeps the `last.ckpt` of an earlier step as `last.previous.ckpt`."""

    def __init__(self) -> None:
        super().__init__()
        self.step: int | None = None  # of the `last.ckpt` that this object has written

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: None = None) -> None:
        """Write a checkpoint; the file from before is replaced when the new one is on disk.

        Raises:
            UserError: it cannot be written; the message names the checkpoint from which the run can resume.
        """
        path = Path(path)
        is_last = path.name == LAST.name
        # A state of the same step, such as that after its validation, replaces the one before it.
        previous = path.with_name(PREVIOUS.name) if is_last and checkpoint["global_step"] != self.step else None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, lambda part: _save(checkpoint, part), previous)
        except OSError as error:
            reason = FULL.get(error.errno, error.strerror)
            remedy = "free some space" if error.errno in FULL else f"make {path.parent} a writable folder"
            raise UserError(f"{path} was not written: {reason}; {remedy}, then {how_to_resume(path.parent)}") from error
        if is_last:
            self.step = checkpoint["global_step"]


def _save(checkpoint: dict[str, Any], file: Path) -> None:
    with file.open("wb") as opened:
        try:
            torch.save(checkpoint, opened)
        except RuntimeError as error:  # torch's, about the state in which a failed write has left it
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def how_to_resume(folder: Path) -> str:
    """What to do after a run could not write; `folder` has its checkpoints."""
    for name in (LAST.name, PREVIOUS.name):
        if (folder / name).is_file():
            return f"resume from {folder / name}, which is intact, by resume={folder.parent} or resume=auto"
    return "start again; there was no checkpoint yet"


def verify_checkpoint(file: Path) -> str | None:
    """What is wrong with a checkpoint, by its checksums; None: it is intact. Reads the whole file."""
    try:
        with zipfile.ZipFile(file) as archive:
            entry = archive.testzip()
        read_file(file)  # whether torch can read what Python's zipfile can
    except Exception as error:  # a damaged archive may raise anything
        return str(error) or type(error).__name__
    return None if entry is None else f"the checksum of its entry {entry} is wrong"
