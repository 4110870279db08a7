"""Atomic file writes: `atomic_write`; for several files together, `write_part` and a rename of each."""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}


def part_of(file: Path) -> Path:
    """The temporary path of `file`."""
    return file.with_name(f".{file.name}.part")


def write_part(file: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with the temporary path of `file`, and wait until its data is on disk."""
    part = part_of(file)
    part.touch()
    mode = part.stat().st_mode  # as for any new file; safetensors lets nobody else read its own
    write(part)
    part.chmod(mode)
    with part.open("rb+") as written:
        os.fsync(written.fileno())


def atomic_write(file: Path, write: Callable[[Path], object], previous: Path | None = None) -> None:
    """Call `write` with a temporary path in the same folder, and rename it to `file` when its data is on disk.

    Whenever the process or the machine stops, `file` or `previous`, the new name of the replaced file, exists and is
    complete. If OSError is raised, `file` is unchanged and no temporary file is left.
    """
    part = part_of(file)
    try:
        write_part(file, write)
        if previous is not None and file.exists():
            os.replace(file, previous)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    opened = os.open(file.parent, os.O_RDONLY)  # the folder: a power failure shall not undo the renaming
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot; the files are on disk in any case
            os.fsync(opened)
    finally:
        os.close(opened)
