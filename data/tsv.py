"""TSV files of any size, with constant-time access to each row.

A file and its sidecar index `<file>.index` are memory-mapped. The index is built by one sequential read into a
temporary file, which is renamed when it is complete, so concurrent processes never see a partial one.

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
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data.source import DataSource, Row, RowError, RowFormat, check_names
from ofa.errors import UserError
from runtime.progress import progress

log = logging.getLogger(__name__)

HEADER = struct.Struct("<8sQQQQ")
MAGIC, VERSION = b"OFA-TSV\0", 1
CHUNK = 1 << 20  # bytes searched at a time: small enough to stay in the processor's cache
READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}


class TSVFile(Sequence[Row]):
    """Random access to the rows of `path`.

    Args:
        path: a TSV file without header; lines end in LF or CRLF, the last one may end in neither, and blank lines at
            the end do not count.
        columns: name and number, from 0, of each column to read.
        n_columns: exact number of columns of every row, where the format has one.

    Raises:
        UserError: at construction, for a file that is missing, empty or not a file, and for columns outside the format.
        UserError: on reading a row of a file whose size has changed since it was opened. A file that was deleted or
            replaced stays readable.
        RowError: on reading a row that is blank, has the wrong number of columns or is not UTF-8.
    """

    def __init__(self, path: str | Path, columns: Mapping[str, int], n_columns: int | None = None) -> None:
        self.path, self.columns, self.n_columns = Path(path), dict(columns), n_columns
        for name, number in self.columns.items():
            if number < 0 or (n_columns is not None and number >= n_columns):
                raise UserError(
                    f"columns names column {number} ({name!r}) but {self.path} has columns 0 to "
                    f"{'...' if n_columns is None else n_columns - 1}; correct data.columns"
                )
        self._offsets  # noqa: B018  built here, in the main process, instead of in every worker

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> Row:
        index = range(len(self))[index]
        size = self._bytes.size()
        if size != len(self._bytes):  # reading past the end of a truncated file would kill the process
            raise UserError(
                f"{self.path} was changed while it was read: it had {len(self._bytes)} bytes and has {size}; restore it"
            )
        start, end = map(int, self._offsets[index : index + 2])
        text = self._bytes[start:end].removesuffix(b"\n").removesuffix(b"\r")
        return self._parse(text, line=index + 1)

    def __getstate__(self) -> dict:
        """State without the memory maps, which each process opens for itself."""
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


class TSVSource(DataSource):
    """One TSV file per split; arguments as of TSVFile and DataSource."""

    unit = "line"
    split_remedy = "give its file in data.files"

    def __init__(
        self,
        files: Mapping[str, str | Path],
        columns: Mapping[str, int],
        n_columns: int | None = None,
        answer_list: Path | None = None,
    ) -> None:
        self.files = {split: Path(path) for split, path in files.items()}
        self.splits, self.columns, self.n_columns, self.answer_list = list(self.files), columns, n_columns, answer_list

    @classmethod
    def from_config(
        cls, task: RowFormat, root: str | None, files: Mapping[str, str] | None, columns: Mapping[str, int] | None
    ) -> TSVSource:
        """The configured files, or those of the published names in `root`; UserError if these do not fit the task."""
        check_names("data.files", files or (), ("train", *task.splits))
        check_names("data.columns", columns or (), task.columns)
        if files is None:
            if root is None:
                raise UserError(
                    "data=tsv needs data.root=FOLDER, the folder of the TSV files (or data.files, a file per split)"
                )
            if not Path(root).is_dir():
                raise UserError(f"data.root={root} is not a folder; give the folder of the TSV files")
            names = {split: task.files.get(split, f"{task.task}_{split}.tsv") for split in ("train", *task.splits)}
            files = {split: Path(root) / name for split, name in names.items()}
        answer_list = None if root is None else Path(root) / "answers.json"
        return cls(files, columns or task.columns, None if columns else task.n_columns, answer_list)

    def prepare(self, splits: Collection[str]) -> None:
        for split in splits:
            check_file(self.files[split])
        for split in splits:
            open_index(self.files[split])

    def rows(self, split: str, columns: Collection[str]) -> TSVFile:
        missing = [name for name in columns if name not in self.columns]
        if missing:
            raise UserError(f"data.columns has no number for {', '.join(missing)}, which the task reads; add it")
        return TSVFile(self.files[split], {name: self.columns[name] for name in columns}, self.n_columns)

    def depends_on(self, split: str) -> list[Path | str]:
        return [self.files[split]]

    def name(self, split: str) -> str:
        return str(self.files[split])


def check_file(path: Path) -> os.stat_result:
    """The status of a file; UserError if it is missing, a folder, not readable, or empty."""
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
    """Byte offsets of the rows of `path`, [rows + 1], memory-mapped; an index is built first where none fits the file.

    Raises:
        UserError: as `check_file`; the file has blank lines only or changes meanwhile, or its index cannot be written.
    """
    stat = check_file(path)
    candidates = _index_paths(path)
    for index in candidates:
        if (offsets := _map_index(index, stat)) is not None:
            return offsets
    for index in candidates:
        try:
            _build_index(path, stat, index)
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise
            log.info("the folder %s is read-only and cannot hold the index", index.parent)
            continue
        log.info("indexed %s in %s", path, index)
        return _map_index(index, stat)
    raise UserError(f"no index of {path} can be written; set OFA_CACHE to a folder that can be written to")


def _index_paths(path: Path) -> tuple[Path, Path]:
    """Paths of the index: next to the file or, for read-only folders, in the user's cache."""
    cache = Path(os.environ.get("OFA_CACHE", "~/.cache/ofa")).expanduser() / "index"
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    return path.with_name(f"{path.name}.index"), cache / f"{path.name}.{digest}.index"


def _map_index(index: Path, stat: os.stat_result) -> np.ndarray | None:
    """The offsets in `index`, or None where it is not a complete index of the file that `stat` describes."""
    try:
        with index.open("rb") as file:
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


def _build_index(path: Path, stat: os.stat_result, target: Path) -> None:
    """Reads `path` once and writes its index to `target`, atomically."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with path.open("rb", buffering=0) as data:
        end = _content_end(data, stat.st_size)
        if not end:
            raise UserError(f"{path} has blank lines only; copy or generate it again")
        index = tempfile.NamedTemporaryFile(dir=target.parent, prefix=f"{target.name}.", suffix=".tmp", delete=False)
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
            os.chmod(index.name, stat.st_mode & 0o666)  # temporary files are private; an index is as public as its data
            os.replace(index.name, target)
        except BaseException:
            os.unlink(index.name)
            raise


def _content_end(data: BinaryIO, size: int) -> int:
    """Number of bytes before the line ends at the end of the file."""
    while size:
        start = max(0, size - CHUNK)
        data.seek(start)
        if content := data.read(size - start).rstrip(b"\r\n"):
            return start + len(content)
        size = start
    return 0


def _row_starts(data: BinaryIO, end: int, name: str) -> Iterator[np.ndarray]:
    """Offsets of the rows after the first, in chunks; a progress bar appears after one second."""
    buffer = bytearray(CHUNK)
    characters = np.frombuffer(buffer, np.uint8)
    position = 0
    data.seek(0)
    with progress(f"indexing {name}", end, "B") as advance:
        while position < end:
            count = data.readinto(memoryview(buffer)[: end - position])
            if not count:
                raise UserError(f"{data.name} became shorter while it was read; try again when it is complete")
            yield np.flatnonzero(characters[:count] == ord("\n")) + (position + 1)
            position += count
            advance(count)
