"""Whether a file is still the one it was, by its content."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

CHUNK = 1 << 20  # bytes read at a time
WHOLE = 1 << 30  # a file of more bytes is known by its size, ...
END = 64 << 20  # ... so many bytes of its beginning and of its end, ...
BLOCK, STRIDE = 64 << 10, 16 << 20  # ... and between them a block in each stride


def digest(file: Path) -> str:
    """Of the size and the content; of a file above WHOLE bytes, of the parts named above.

    The end of a checkpoint holds a checksum of each of its tensors, so that no change of one goes unnoticed. Of a file
    that is asked about again, and that was not written to since, the answer is remembered.
    """
    status = file.stat()
    return _read(file.absolute(), status.st_size, status.st_mtime_ns)


@cache
def _read(file: Path, size: int, written: int) -> str:
    found = hashlib.sha256(str(size).encode())
    with file.open("rb") as opened:
        for start, end in _parts(size):
            opened.seek(start)
            while chunk := opened.read(min(CHUNK, end - opened.tell())):
                found.update(chunk)
    return found.hexdigest()


def _parts(size: int) -> list[tuple[int, int]]:
    if size <= WHOLE:
        return [(0, size)]
    blocks = [(start, start + BLOCK) for start in range(END, size - END, STRIDE)]
    return [(0, END), *blocks, (size - END, size)]
