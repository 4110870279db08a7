"""Files that appear whole or not at all: `write_whole`; and several that appear together: `write_part` for each."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}


def part_of(file: Path) -> Path:
    """Where `file` is made, before it gets its name."""
    return file.with_name(f".{file.name}.part")


def write_part(file: Path, write: Callable[[Path], object]) -> None:
    """Has `write` make what is to become `file`, and waits until it is on disk.

    Args:
        write: called with the path to write to.
    """
    part = part_of(file)
    part.touch()
    mode = part.stat().st_mode  # as for any new file; safetensors lets nobody else read its own
    write(part)
    part.chmod(mode)
    with part.open("rb+") as written:
        os.fsync(written.fileno())


def atomic_write(file: Path, write: Callable[[Path], object], previous: Path | None = None) -> None:
    """Has `write` make a file under another name beside `file`, which it becomes when all of it is on disk.

    Whenever the process or the machine stops, `file` or `previous` is there, and whole.

    Args:
        file: one of that name is replaced.
        write: called with the path to write to.
        previous: the name that the replaced one is kept under; None: it is not kept.

    Raises:
        OSError: it cannot be written; `file` is as it was, and no part is left.
    """
    part = part_of(file)
    try:
        write_part(file, write)
        if previous is not None and file.exists():
            os.replace(file, previous)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    _keep_names(file.parent)


def _keep_names(folder: Path) -> None:
    """Has the system write the folder itself, so that a power cut does not undo the renaming."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every network file system can; the files are on disk in any case
            os.fsync(opened)
    finally:
        os.close(opened)
