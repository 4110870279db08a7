"""The files of a teacher cache: one record of bytes for each sample, found by its key.

    cache.json         version of the format, and the fingerprint of everything the records depend on
    index.bin          an ENTRY for each key, zeros where there is no record yet
    shard-00001.bin    concatenated records, memory-mapped for reading; and so on

A record is on disk before its entry, so that a killed process leaves at most unreferenced bytes. A process appends only
to shards that it created, so that several can fill one cache.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ofa.errors import UserError

FORMAT = 1  # increase it when the records change, so that older folders are refused
DESCRIPTION, INDEX, UNFINISHED = "cache.json", "index.bin", "unfinished."
# The place is shard << OFFSET_BITS | offset, one machine word, so that concurrent writes of an entry cannot mix.
ENTRY = np.dtype([("place", "<u8"), ("size", "<u4"), ("check", "<u4")])
OFFSET_BITS = 40
REMEDY = "give another folder, or delete this one to have it filled again"


class TeacherCache:
    """The cache in `folder`, created if it is missing.

    Args:
        folder: of the files above.
        n_keys: the number of samples; keys count from 0. An index of fewer keys grows; of more keys, a part is used.
        fingerprint: what the records depend on, a JSON value for each part; an error names the part.
        shard_bytes: the largest size of a shard.

    Raises:
        UserError: the folder contains a cache of another fingerprint, a damaged one or something else, or cannot be
            written.
    """

    def __init__(self, folder: Path, n_keys: int, fingerprint: Mapping[str, Any], shard_bytes: int = 1 << 30) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        if not (folder / DESCRIPTION).is_file():
            _create(folder, n_keys, fingerprint)
        _check_fingerprint(folder, fingerprint)
        self._entries = _map_index(folder / INDEX, n_keys)
        self._shards: dict[int, mmap.mmap | bytes] = {}
        self._own: tuple[int, BinaryIO] | None = None  # number and file of the shard to append to

    def __len__(self) -> int:
        """The number of records."""
        return np.count_nonzero(self._entries["place"])

    @property
    def n_keys(self) -> int:
        return len(self._entries)

    @property
    def n_bytes(self) -> int:
        """The size of index and shards."""
        return sum(file.stat().st_size for file in self.folder.glob("*.bin"))

    def has(self, keys: Sequence[int]) -> np.ndarray:
        """For each key, whether it has a record."""
        return self._entries["place"][keys] != 0

    def checks(self, keys: Sequence[int]) -> np.ndarray:
        """The checksum of each record, as it was written."""
        return self._entries["check"][keys]

    def read(self, key: int) -> bytes:
        """The record of a key that has one.

        Raises:
            UserError: its shard is missing or truncated.
        """
        place, size = (int(self._entries[name][key]) for name in ("place", "size"))
        number, start = place >> OFFSET_BITS, place & ((1 << OFFSET_BITS) - 1)
        if len(self._shards.get(number, b"")) < start + size:  # not mapped yet, or not at this length
            self._shards[number] = _map_shard(self._path(number))
            if len(self._shards[number]) < start + size:
                raise UserError(f"{self._path(number)} is truncated, so that distill.cache is lost; {REMEDY}")
        return self._shards[number][start : start + size]

    def write(self, keys: Sequence[int], checks: Sequence[int], records: Sequence[bytes]) -> None:
        """Store a record for each key, and a checksum of 32 bits to compare when it is read.

        Raises:
            UserError: the folder cannot be written, or the disk is full.
        """
        try:
            number, start = self._append(b"".join(records))
        except OSError as error:
            raise UserError(f"distill.cache={self.folder} cannot be written ({error.strerror})") from error
        sizes = np.array([len(record) for record in records])
        self._entries["size"][keys], self._entries["check"][keys] = sizes, checks
        self._entries["place"][keys] = (number << OFFSET_BITS) + start + sizes.cumsum() - sizes

    def _append(self, data: bytes) -> tuple[int, int]:
        """Write `data` durably; return the number of its shard and its offset in it."""
        if self._own is None or self._own[1].tell() + len(data) > self.shard_bytes:
            self._own = self._new_shard()
        number, file = self._own
        start = file.tell()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return number, start

    def _new_shard(self) -> tuple[int, BinaryIO]:
        for number in itertools.count(1):
            with contextlib.suppress(FileExistsError):
                return number, self._path(number).open("xb")

    def _path(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.bin"


def _create(folder: Path, n_keys: int, fingerprint: Mapping[str, Any]) -> None:
    """Create an empty index, then the description; several processes may do this at once.

    Nothing outside the folder is written, which may be a mount point. Each complete file is linked to its name, and a
    file of another process is never replaced, since it may contain entries already.
    """
    description = json.dumps({"format": FORMAT, "fingerprint": fingerprint}, indent=2) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = [file for file in folder.iterdir() if file.name != INDEX and UNFINISHED not in file.name]
        if others and not (folder / DESCRIPTION).is_file():
            raise UserError(f"distill.cache={folder} contains files that are not a cache; give a new or empty folder")
        with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as unfinished:
            for name, content in ((INDEX, _no_entries(n_keys)), (DESCRIPTION, description.encode())):
                Path(unfinished, name).write_bytes(content)
                with contextlib.suppress(FileExistsError):  # created by another process
                    os.link(Path(unfinished, name), folder / name)
    except OSError as error:
        raise UserError(f"distill.cache={folder} cannot be created ({error.strerror})") from error


def _check_fingerprint(folder: Path, fingerprint: Mapping[str, Any]) -> None:
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        version, stored = description["format"], dict(description["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / DESCRIPTION} cannot be read ({error}); {REMEDY}") from error
    if version != FORMAT:
        raise UserError(f"distill.cache={folder} has format {version}, this program writes {FORMAT}; {REMEDY}")
    given = json.loads(json.dumps(fingerprint))
    other = [name for name in given | stored if name not in stored or given.get(name) != stored[name]]
    if other:
        raise UserError(f"distill.cache={folder} was filled with another {', another '.join(other)}; {REMEDY}")


def _map_index(file: Path, n_keys: int) -> np.ndarray:
    """The first `n_keys` entries; missing ones are added."""
    size = file.stat().st_size if file.is_file() else 0
    if size == 0 or size % ENTRY.itemsize:
        raise UserError(f"{file} has {size} bytes, not {ENTRY.itemsize} for each key; {REMEDY}")
    if size < n_keys * ENTRY.itemsize:
        try:
            with file.open("ab") as opened:  # another process may do the same; extra entries are harmless
                opened.write(_no_entries(n_keys - size // ENTRY.itemsize))
        except OSError as error:
            if os.access(file, os.W_OK):
                os.truncate(file, size)
            raise UserError(f"distill.cache={file.parent} cannot be written ({error.strerror})") from error
    return np.memmap(file, ENTRY, "r+" if os.access(file, os.W_OK) else "r", shape=n_keys)


def _no_entries(n_keys: int) -> bytes:
    """Zeros to write: storing into a memory-mapped sparse file would kill the process on a full disk."""
    return bytes(n_keys * ENTRY.itemsize)


def _map_shard(file: Path) -> mmap.mmap | bytes:
    try:
        with file.open("rb") as opened:
            if not os.fstat(opened.fileno()).st_size:
                return b""
            return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); {REMEDY}") from error
