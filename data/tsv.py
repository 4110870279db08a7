"""Rows of a TSV file of any size, each read in constant time.

The file is memory-mapped; where its rows start stands in a sidecar file `<file>.index`, memory-mapped too, so that a
file of 100 GB costs the addresses of its rows and nothing else. The index is built by one sequential read, in its own
temporary file that then takes the final name in one step: processes that build it at once do not disturb each other,
and what is seen under the final name is always whole.

Layout of an index, little endian: magic, version, size and mtime_ns of the data file it belongs to, number of rows
(`HEADER`), then rows + 1 offsets as uint64: the start of each row and the end of the last.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ofa.errors import UserError
from runtime.progress import progress

log = logging.getLogger(__name__)

HEADER = struct.Struct("<8sQQQQ")
MAGIC, VERSION = b"OFA-TSV\0", 1
CHUNK = 1 << 20  # bytes searched at a time: small enough to stay in the processor's cache
READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}


class RowError(UserError):
    """One row that cannot be used: says which line of which file, what is wrong with it, and what to do.

    Survives pickling, so it can cross from a worker to the main process as a value.
    """

    def __init__(
        self, path: Path, line: int, message: str, remedy: str = "correct or remove the row, or set data.on_error=skip"
    ) -> None:
        super().__init__(f"line {line} of {path}: {message}; {remedy}")
        self.path, self.line, self.message, self.remedy = path, line, message, remedy

    def __reduce__(self):
        return type(self), (self.path, self.line, self.message, self.remedy)


@dataclass(frozen=True)
class Row:
    """The named columns of one line; `line` counts from 1, as editors do."""

    values: dict[str, str]
    path: Path
    line: int
    source: str = ""  # where values came from that the line does not hold, as errors say it

    def error(self, message: str) -> RowError:
        """An error about this row, to be raised by whoever finds its content wrong."""
        return RowError(self.path, self.line, message + self.source)


class TSVFile(Sequence[Row]):
    """Random access to the rows of `path`.

    Args:
        path: a TSV file without header; lines end in LF or CRLF, the last one may end in neither, and blank lines at
            the end do not count.
        columns: what each wanted column is called, and its number from 0.
        n_columns: exact number of columns of every row, where the format has one.

    Raises:
        UserError: at construction, for a file that is missing, empty or not a file, and for columns outside the format.
        UserError: on reading a row of a file that has another size than when it was opened. One that was deleted or
            replaced can be read on.
        RowError: on reading a row that is blank, has the wrong number of columns or is not UTF-8.
    """

    def __init__(self, path: str | Path, columns: Mapping[str, int], n_columns: int | None = None) -> None:
        self.path = Path(path)
        self.columns = dict(columns)
        self.n_columns = n_columns
        for name, number in self.columns.items():
            if number < 0 or (n_columns is not None and number >= n_columns):
                raise UserError(
                    f"columns names column {number} ({name!r}) but {self.path} has columns 0 to "
                    f"{'...' if n_columns is None else n_columns - 1}; correct data.columns"
                )
        self._offsets  # noqa: B018  built here, in the main process, and not by every worker

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> Row:
        index = range(len(self))[index]
        self._check_size()  # to read behind the end of a file that was cut would kill the process
        start, end = map(int, self._offsets[index : index + 2])
        text = self._bytes[start:end].removesuffix(b"\n").removesuffix(b"\r")
        return self._parse(text, line=index + 1)

    def _check_size(self) -> None:
        size = self._bytes.size()
        if size != len(self._bytes):
            raise UserError(
                f"{self.path} was changed while it was read: it had {len(self._bytes)} bytes and has {size}; put back "
                "the file as it was"
            )

    def __getstate__(self) -> dict:
        """What travels to workers: not the maps, which each process opens for itself."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_offsets", "_bytes")}

    @cached_property
    def _offsets(self) -> np.ndarray:
        return open_index(self.path)

    @cached_property
    def _bytes(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _parse(self, text: bytes, line: int) -> Row:
        if not text:
            raise RowError(self.path, line, "the line is blank")
        fields = text.split(b"\t")
        if self.n_columns is not None and len(fields) != self.n_columns:
            raise RowError(self.path, line, f"the row has {len(fields)} columns, this format has {self.n_columns}")
        values = {}
        for name, number in self.columns.items():
            if number >= len(fields):
                message = f"columns names column {number} ({name!r}, counted from 0) but the row has {len(fields)}"
                raise RowError(self.path, line, message, "correct the row or data.columns, or set data.on_error=skip")
            try:
                values[name] = fields[number].decode()
            except UnicodeDecodeError as error:
                message = f"column {number} ({name!r}) is not UTF-8 at its byte {error.start}"
                raise RowError(self.path, line, message) from error
        return Row(values, self.path, line)


def check_file(path: Path) -> os.stat_result:
    """The file's stat, once it is known to be a file with something in it.

    Raises:
        UserError: where it is missing, a folder, not readable, or empty.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; set data.root to the folder that holds the data files")
    if not path.is_file():
        raise UserError(f"{path} is not a file; name the TSV file itself")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read; ask its owner for read permission")
    stat = path.stat()
    if not stat.st_size:
        raise UserError(f"{path} is empty; copy or generate it again")
    return stat


def open_index(path: Path) -> np.ndarray:
    """Offsets of the rows of `path` in bytes, [rows + 1], memory-mapped; built first where no index fits the file.

    Raises:
        UserError: as `check_file`; it holds blank lines only or changes meanwhile, or no folder can hold its index.
    """
    stat = check_file(path)
    places = _places(path)
    for place in places:
        if (offsets := _map_index(place, stat)) is not None:
            return offsets
    for place in places:
        try:
            _build_index(path, stat, place)
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise
            log.info("the folder %s is read-only: its index cannot stand there", place.parent)
            continue
        log.info("indexed %s in %s", path, place)
        return _map_index(place, stat)
    raise UserError(f"no index of {path} can be written; set OFA_CACHE to a folder that can be written to")


def _places(path: Path) -> tuple[Path, Path]:
    """Where the index may stand: beside the file or, for folders that are read-only, in the user's cache."""
    cache = Path(os.environ.get("OFA_CACHE", "~/.cache/ofa")).expanduser() / "index"
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    return path.with_name(f"{path.name}.index"), cache / f"{path.name}.{digest}.index"


def _map_index(place: Path, stat: os.stat_result) -> np.ndarray | None:
    """The offsets in `place`, or None where there is no whole index of the file that `stat` describes."""
    try:
        with place.open("rb") as file:
            header = file.read(HEADER.size)
            length = os.fstat(file.fileno()).st_size
            if len(header) < HEADER.size:
                return None
            *identity, rows = HEADER.unpack(header)
            if identity != [MAGIC, VERSION, stat.st_size, stat.st_mtime_ns] or length != HEADER.size + 8 * (rows + 1):
                return None
            return np.memmap(file, "<u8", mode="r", offset=HEADER.size, shape=(rows + 1,))
    except (FileNotFoundError, PermissionError):
        return None


def _build_index(path: Path, stat: os.stat_result, place: Path) -> None:
    """Read `path` once and put its index at `place`, whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with path.open("rb", buffering=0) as data:
        end = _content_end(data, stat.st_size)
        if not end:
            raise UserError(f"{path} holds blank lines only; copy or generate it again")
        index = tempfile.NamedTemporaryFile(dir=place.parent, prefix=f"{place.name}.", suffix=".tmp", delete=False)
        try:
            with index:
                index.seek(HEADER.size)
                np.zeros(1, "<u8").tofile(index)
                rows = 1
                for starts in _row_starts(data, end, path.name):
                    starts.astype("<u8", copy=False).tofile(index)
                    rows += len(starts)
                np.array([end], "<u8").tofile(index)
                index.seek(0)
                index.write(HEADER.pack(MAGIC, VERSION, stat.st_size, stat.st_mtime_ns, rows))
                index.flush()
                os.fsync(index.fileno())
            os.chmod(index.name, stat.st_mode & 0o666)  # temporary files are private, an index is as public as its data
            os.replace(index.name, place)
        except BaseException:
            os.unlink(index.name)
            raise


def _content_end(data: BinaryIO, size: int) -> int:
    """Number of bytes before the line ends that close the file."""
    while size:
        start = max(0, size - CHUNK)
        data.seek(start)
        if content := data.read(size - start).rstrip(b"\r\n"):
            return start + len(content)
        size = start
    return 0


def _row_starts(data: BinaryIO, end: int, name: str) -> Iterator[np.ndarray]:
    """Offsets of the rows behind the first, in pieces; the bar appears when the search has taken a second."""
    buffer = bytearray(CHUNK)
    characters = np.frombuffer(buffer, np.uint8)
    position = 0
    data.seek(0)
    with progress(f"indexing {name}", end, "B") as advance:
        while position < end:
            count = data.readinto(memoryview(buffer)[: end - position])
            if not count:
                raise UserError(f"{data.name} became shorter while it was read; start again when it is complete")
            yield np.flatnonzero(characters[:count] == ord("\n")) + (position + 1)
            position += count
            advance(count)
