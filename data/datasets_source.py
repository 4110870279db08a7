"""Rows from a Hugging Face `datasets` source: a hub id, or local Parquet, JSON, CSV or image files."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import fsspec
import PIL.Image

from data.cells import SEPARATOR
from data.layout import join_cell
from data.prepare.answers import answers_cell
from data.source import DataSource, Row, RowFormat, check_names
from ofa.errors import UserError
from ofa.inputs import MAX_DOWNLOAD

if TYPE_CHECKING:  # importing it takes seconds
    import datasets

READERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}
ARCHIVES = {".zip", ".tar", ".gz", ".tgz"}  # that may contain images
NUMBERED = ("uniq_id", "image_id")  # columns that default to the row number


class DatasetsSource(DataSource):
    """The splits of one data set, or one file per split, as memory-mapped Arrow tables in the cache of `datasets`.

    Args:
        source: hub id, file, glob, folder of images or tables, or folder of `save_to_disk`; or one of these per split.
        split: the split of the source for each split of the task, with slices, such as {val: 'validation[:20]'}. None:
            those of the same name.
        map: the column of the source for each task column; None is an empty column. Others have the same name.
        config, revision: of a hub id.

    Raises:
        UserError: a name in `split` or `map` is unknown.
    """

    split_remedy = "set data.split, such as data.split=\"{train: 'train[:90%]', val: 'train[90%:]'}\""

    def __init__(
        self,
        task: RowFormat,
        source: str | Mapping[str, str],
        split: Mapping[str, str] | None = None,
        map: Mapping[str, str | None] | None = None,
        config: str | None = None,
        revision: str | None = None,
    ) -> None:
        self.task, self.source, self.columns = task, source, map or {}
        self._config, self._revision, self._split = config, revision, split
        known = ("train", *task.splits)
        check_names("data.map", self.columns, task.columns)
        check_names("data.split", split or (), known)
        check_names("data.source", source if isinstance(source, Mapping) else (), known)
        self._opened: dict[str, _Opened] = {}

    @cached_property
    def splits(self) -> dict[str, str]:
        """The split of the source, with its slice, for each split of the task."""
        if self._split is not None:
            return dict(self._split)
        if isinstance(self.source, Mapping):
            return dict.fromkeys(self.source, "train")
        there = self._open("train").tables
        names = {split: split for split in ("train", *self.task.splits)}
        if "validation" in there:
            names["val"] = "validation"
        return {split: name for split, name in names.items() if name in there}

    def prepare(self, splits: Collection[str]) -> None:
        for split in splits:
            self._table(split)

    def rows(self, split: str, columns: Collection[str]) -> DatasetRows:
        table = self._table(split)
        names = list(_names(table.features))
        for column, field in self.columns.items():
            check_names(f"data.map.{column} of {self.name(split)}", [field] if field else (), names)
        fields = {column: self.columns.get(column, column if column in names else None) for column in columns}
        for column, field in fields.items():
            if field is None and column not in (*NUMBERED, *self.columns):
                raise UserError(
                    f"{self.name(split)} has no column {column!r}, which task={self.task.task} reads, only "
                    f"{', '.join(names)}; set data.map={{{column}: COLUMN}}"
                )
        return DatasetRows(table, fields, self.name(split), self._open(split).folder)

    def depends_on(self, split: str) -> Sequence[Path | str]:
        return self._open(split).depends_on

    def name(self, split: str) -> str:
        return f"{self._source(split)} ({self.splits[split]})"

    def _source(self, split: str) -> str:
        if not isinstance(self.source, Mapping):
            return self.source
        if split not in self.source:
            raise UserError(f"data.source has no entry for split {split}, which data.split names; add it")
        return self.source[split]

    def _open(self, split: str) -> _Opened:
        source = self._source(split)
        if source not in self._opened:
            try:
                self._opened[source] = _open(source, self._config, self._revision)
            except ConnectionError as error:
                raise UserError(
                    f"data.source={source}: the Hugging Face hub cannot be reached; read the data set once where it "
                    "can, or name a local file or folder"
                ) from error
            except UserError:
                raise
            except Exception as error:  # of the hub, of the file system, of each format's reader
                raise UserError(f"data.source={source} cannot be read: {first_line(error)}") from error
        return self._opened[source]

    def _table(self, split: str) -> datasets.Dataset:
        """The rows of a split, which is a split of the source such as "train[:100]"."""
        from datasets import ReadInstruction, concatenate_datasets

        tables, chosen = self._open(split).tables, self.splits[split]
        try:
            parts = ReadInstruction.from_spec(chosen).to_absolute({name: len(table) for name, table in tables.items()})
            if any(part.from_ >= part.to for part in parts):
                raise ValueError("it has no rows")
            return concatenate_datasets([tables[part.splitname].select(range(part.from_, part.to)) for part in parts])
        except Exception as error:  # of the syntax, of an unknown split
            raise UserError(
                f"data.split: {self._source(split)} cannot be read as {chosen}: {first_line(error)}"
            ) from error


class DatasetRows(Sequence[Row]):
    """The rows of an Arrow table.

    Args:
        table: a memory-mapped table, which worker processes open again by its path.
        fields: the column of the table for each task column; None: the row number for an id, else nothing.
        name: of the table, for errors.
        folder: that paths of images are relative to.

    Reading a row with a value of the wrong kind or an image that cannot be read raises RowError.
    """

    def __init__(self, table: datasets.Dataset, fields: Mapping[str, str | None], name: str, folder: Path) -> None:
        self.fields, self.name, self.folder = fields, name, folder
        self.labels = {field: f.names for field, f in table.features.items() if hasattr(f, "names")}
        top = {field if field in table.features else field.split(".")[0] for field in fields.values() if field}
        self.table = table.select_columns(sorted(top)).with_format("arrow")  # values as stored; no image is decoded

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Row:
        index = range(len(self))[index]
        (stored,) = self.table[index].to_pylist()
        values: dict[str, str | bytes] = {}
        row = Row(values, self.name, index + 1, "row")
        for column, field in self.fields.items():
            try:
                values[column] = self._cell(column, field, stored, index + 1)
            except (OSError, ValueError) as error:
                raise row.error(f"column {field!r} ({column}) cannot be used: {first_line(error)}") from error
        return row

    def _cell(self, column: str, field: str | None, stored: Mapping[str, Any], number: int) -> str | bytes:
        if field is None:
            return str(number) if column in NUMBERED else ""
        value = _lookup(stored, field)
        if column == "image":
            return _read_image(value, self.folder)
        if field in self.labels and isinstance(value, int):
            return self.labels[field][value] if value >= 0 else ""
        return _answers(value) if column == "answers" else _text(value)


class _Opened(NamedTuple):
    """The tables of a source by split, the folder of its files, and what their content depends on."""

    tables: Mapping[str, datasets.Dataset]
    folder: Path
    depends_on: Sequence[Path | str]


def _open(source: str, config: str | None, revision: str | None) -> _Opened:
    """Opens a source; writes its tables to the cache of `datasets` first where they are not there."""
    from datasets import DatasetDict, load_dataset_builder, load_from_disk

    path = Path(source)
    folder = path if path.is_dir() else path.parent
    if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        saved = load_from_disk(source)
        tables = saved if isinstance(saved, DatasetDict) else {"train": saved}
        return _Opened(tables, folder, sorted(path.rglob("*.arrow")))
    options = local_reader(source, "data.source=")
    builder = load_dataset_builder(**options or {"path": source, "name": config, "revision": revision})
    builder.download_and_prepare()
    if options is None:
        return _Opened(builder.as_dataset(), folder, [f"{source}, revision {builder.hash}"])
    files = sorted({Path(file) for files in builder.config.data_files.values() for file in files})
    images = [file for file in files if file.suffix.lower() not in READERS]
    sizes = json.dumps([[os.path.relpath(file, folder), file.stat().st_size] for file in images])
    listing = [hashlib.sha256(sizes.encode()).hexdigest()] if images else []
    return _Opened(builder.as_dataset(), folder, [*(file for file in files if file not in images), *listing])


def local_reader(source: str, option: str) -> dict[str, Any] | None:
    """The arguments of `load_dataset` for a local file, glob or folder; None for a hub id.

    `option` is how it was given, as in "--source ", for the UserError where `datasets` does not read such files.
    """
    path = Path(source)
    if path.is_dir():
        suffixes = {file.suffix.lower() for file in path.rglob("*")}
        if ".parquet" in suffixes:
            return {"path": "parquet", "data_dir": source}
        if suffixes & {*PIL.Image.registered_extensions(), *ARCHIVES}:
            return {"path": "imagefolder", "data_dir": source}
        raise UserError(f"{option}{source} has neither Parquet files nor images; name one of its files instead")
    files = [source] if path.is_file() else sorted(glob.glob(source, recursive=True))
    if files:
        suffix = Path(files[0]).suffix
        if suffix not in READERS:
            raise UserError(f"{option}{source} is not one of the files that are read: {', '.join(READERS)}")
        return {"path": READERS[suffix], "data_files": files}
    if path.suffix in READERS or path.is_absolute() or source.count("/") > 1:
        raise UserError(f"{option}{source} does not exist; give a file, a folder, or a hub id such as ORG/NAME")
    return None


def stored_image(value: Any, folder: Path) -> Path | bytes | None:
    """An encoded image or its path, from bytes, a path, or a dict of both; fetched from an archive or the hub.

    Raises:
        FileNotFoundError: it is not in the archive or on the hub.
        ValueError: it is too large, or at another network address, which is never opened.
        UserError: it cannot be fetched.
    """
    is_stored = isinstance(value, dict)  # as an image; a text never opens a network address
    if is_stored:
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if not isinstance(value, str):
        return value if isinstance(value, bytes) else None
    # Archives come first, as in `zip://a.jpg::hf://datasets/ORG/NAME/photos.zip`.
    *archives, place = value.split("::")
    is_local = bool(archives) and "://" not in place
    are_archives = all(archive.startswith(("zip://", "tar://")) for archive in archives)
    if is_stored and are_archives and (is_local or place.startswith("hf://")):
        try:
            return _read(fsspec.open(value), value)
        except (FileNotFoundError, ValueError):
            raise
        except Exception as error:  # each file system has its own; no reason to continue without the image
            raise UserError(f"the image {value} cannot be fetched: {first_line(error)}; try again") from error
    if "://" in value:
        raise ValueError(f"{value} is an address, not a file; download it first")
    return folder / value if value else None


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _read(opened: Any, name: object) -> bytes:
    with opened as file:
        encoded = file.read(MAX_DOWNLOAD + 1)
    if len(encoded) > MAX_DOWNLOAD:
        raise ValueError(f"{name} has more than the {MAX_DOWNLOAD} bytes allowed")
    return encoded


def _read_image(value: Any, folder: Path) -> str | bytes:
    """An encoded image, or base64 text of it, which has no "." in contrast to a path."""
    if isinstance(value, str) and "." not in value:
        return value
    image = stored_image(value, folder)
    if image is None:
        raise ValueError(f"it is of kind {type(value).__name__}, not an image, a path or base64 text")
    return image if isinstance(image, bytes) else _read(image.open("rb"), image)


def _names(features: Any, prefix: str = "") -> Iterator[str]:
    """The columns of a table, nested ones as `objects.bbox`."""
    while hasattr(features, "feature"):  # of a list
        features = features.feature
    for name, feature in features.items() if isinstance(features, dict) else ():
        yield prefix + name
        yield from _names(feature, f"{prefix}{name}.")


def _lookup(value: Any, field: str) -> Any:
    """The value of a column, which may be nested."""
    if isinstance(value, list):
        return [_lookup(entry, field) for entry in value]
    if value is None or field in value:
        return value and value[field]
    first, _, rest = field.partition(".")
    return _lookup(value[first], rest)


def _text(value: Any) -> str:
    """The cell of a value: several texts joined, numbers of a box separated by commas; ValueError for another kind."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return join_cell(value)
    if isinstance(value, list) and all(isinstance(entry, int | float) for entry in value):
        return ",".join(map(str, value))
    raise ValueError(f"it is of kind {type(value).__name__}, not text, a number, or a list of texts or numbers")


def _answers(value: Any) -> str:
    """The cell of answers: as it is, or from {answer: confidence}, or from the answers of several people."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        value = json.loads(value)
    if isinstance(value, str) and "|!+" in value:
        return value
    if isinstance(value, dict) and "answer" not in value:
        given = {answer: confidence for answer, confidence in value.items() if confidence is not None}
        if not all(isinstance(confidence, int | float) for confidence in given.values()):
            raise ValueError("its confidences are not numbers")
        return join_cell(f"{confidence}|!+{answer}" for answer, confidence in given.items())
    if isinstance(value, dict):
        value = value["answer"]
    several = value if isinstance(value, list) else _text(value).split(SEPARATOR)
    return answers_cell([_text(entry.get("answer") if isinstance(entry, dict) else entry).strip() for entry in several])
