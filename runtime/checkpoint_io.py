"""Checkpoints on disk: each appears whole or not at all, and whether one is whole can be told.

A checkpoint is a zip archive of tensors. Its list of content comes last and has a checksum of each entry, so that a
file that was cut short or changed on the disk is known by reading it once.
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
    """Writes checkpoints whole or not at all; of `last.ckpt` the one of an update before is kept, too."""

    def __init__(self) -> None:
        super().__init__()
        self.step: int | None = None  # of the `last.ckpt` that this object has written

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: None = None) -> None:
        """Write a checkpoint; what was there before is replaced when the new one is on disk.

        Raises:
            UserError: it cannot be written; it names the checkpoint that the run can go on from.
        """
        path = Path(path)
        is_last = path.name == LAST.name
        # A state of the same update, such as that behind its validation, takes the place of the one before it.
        previous = path.with_name(PREVIOUS.name) if is_last and checkpoint["global_step"] != self.step else None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, lambda part: _save(checkpoint, part), previous)
        except OSError as error:
            reason = FULL.get(error.errno, error.strerror)
            remedy = "make space on it" if error.errno in FULL else f"make {path.parent} a folder that can be written"
            raise UserError(f"{path} was not written: {reason}; {remedy}, then {how_to_resume(path.parent)}") from error
        if is_last:
            self.step = checkpoint["global_step"]


def _save(checkpoint: dict[str, Any], file: Path) -> None:
    with file.open("wb") as opened:
        try:
            torch.save(checkpoint, opened)
        except RuntimeError as error:  # torch's, about what it finds when a write has failed
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def how_to_resume(folder: Path) -> str:
    """What to do after a run could not write; `folder` has its checkpoints."""
    for name in (LAST.name, PREVIOUS.name):
        if (folder / name).is_file():
            return f"go on from {folder / name}, which is as it was, by resume={folder.parent} or resume=auto"
    return "start again; there was no checkpoint yet"


def verify_checkpoint(file: Path) -> str | None:
    """What is wrong with a checkpoint, by its checksums; None: it is whole. All of it is read."""
    try:
        with zipfile.ZipFile(file) as archive:
            entry = archive.testzip()
        read_file(file)  # whether torch finds in it what Python's zipfile has found
    except Exception as error:  # a damaged archive may raise anything
        return str(error) or type(error).__name__
    return None if entry is None else f"the checksum of its entry {entry} is wrong"
