"""Digests of files, by which a resumed run knows that its data are unchanged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

CHUNK = 1 << 20  # bytes read at a time
WHOLE = 1 << 30  # of a file with more bytes, only the size, ...
END = 64 << 20  # ... so many bytes of its beginning and of its end (checksums of the tensors of a checkpoint), ...
BLOCK, STRIDE = 64 << 10, 16 << 20  # ... and between them one block in each stride are read


def digest(file: Path) -> str:
    """Hash of the size and the content, or the parts named above, cached until the file is written to."""
    status = file.stat()
    return _read(file.absolute(), status.st_size, status.st_mtime_ns)


def digests(parts: Iterable[Path | str]) -> list[str]:
    """Hashes of files; a text, such as a revision, stands for itself."""
    return [digest(part) if isinstance(part, Path) else part for part in parts]


@cache
def _read(file: Path, size: int, written: int) -> str:
    parts = [(0, size)]
    if size > WHOLE:
        blocks = [(start, start + BLOCK) for start in range(END, size - END, STRIDE)]
        parts = [(0, END), *blocks, (size - END, size)]
    found = hashlib.sha256(str(size).encode())
    with file.open("rb") as opened:
        for start, end in parts:
            opened.seek(start)
            while chunk := opened.read(min(CHUNK, end - opened.tell())):
                found.update(chunk)
    return found.hexdigest()
