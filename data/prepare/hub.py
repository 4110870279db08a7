"""Whatever the library `datasets` reads: a Hugging Face hub id, Parquet, JSON, CSV, a folder of images."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec

from data.prepare.fields import FieldMap, add_field_arguments
from data.prepare.records import Conversion, LeftOut, Sample
from ofa.errors import UserError

_READERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}


class HuggingFace:
    """One row an example, read as a stream, so that nothing larger than a shard is kept."""

    help = "any source of the library datasets: hub id, Parquet, JSON, CSV, folder of images"
    makes = "FILE"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--source", required=True, help="hub id, file or folder")
        parser.add_argument("--config", help="of a hub id that has several")
        parser.add_argument("--split", default="train", help="of the source, default %(default)s")
        add_field_arguments(parser)

    def conversions(self, arguments: argparse.Namespace) -> Iterator[Conversion]:
        examples = _open(arguments.source, arguments.config, arguments.split)
        names = list(examples.features or next(_read(examples, arguments.source), {}))
        fields = FieldMap.of(arguments, names, arguments.source)
        path = Path(arguments.source)
        sources = (path,) if path.is_file() else ()
        folder = path.parent if path.is_file() else path
        samples = partial(_samples, examples, fields, arguments.source, folder)
        yield Conversion(arguments.out, arguments.task, sources, samples)


def _open(source: str, config: str | None, split: str) -> Any:
    """The examples of a split as a stream.

    Raises:
        UserError: there is none.
    """
    from datasets import load_dataset  # takes seconds, which other commands need not wait for

    path = Path(source)
    if path.is_file():
        if path.suffix not in _READERS:
            raise UserError(f"--source {source} is not one of the files that are read: {', '.join(_READERS)}")
        named = {"path": _READERS[path.suffix], "data_files": str(path)}
    elif path.is_dir():
        named = {"path": "imagefolder", "data_dir": str(path)}
    else:
        named = {"path": source, "name": config}
    try:
        return load_dataset(**named, split=split, streaming=True)
    except Exception as error:  # of the hub, of the file system, of each format's reader
        raise UserError(f"--source {source} --split {split} cannot be read: {_first_line(error)}") from error


def _samples(examples: Any, fields: FieldMap, source: str, folder: Path) -> Iterator[Sample]:
    examples, labels = _as_stored(examples, fields.fields["image"])
    for number, example in enumerate(_read(examples, source), start=1):
        place = f"example {number} of {source}"
        for name, names in labels.items():
            value = example[name]
            example[name] = names[value] if isinstance(value, int) and 0 <= value < len(names) else None
        try:
            image = _image(example[fields.fields["image"]], folder)
        except (OSError, ValueError) as error:
            yield LeftOut(place, f"its image cannot be read ({error})")
            continue
        image_id = os.path.relpath(image, folder) if isinstance(image, Path) else str(number)
        yield fields.sample(number, place, example, image, image_id)


def _as_stored(examples: Any, image: str) -> tuple[Any, dict[str, list[str]]]:
    """The same stream with images as the bytes they are stored in, and the names of its labels, which are numbers."""
    from datasets import ClassLabel, Image

    features = examples.features or {}
    if isinstance(features.get(image), Image):
        examples = examples.cast_column(image, Image(decode=False))
    return examples, {name: kind.names for name, kind in features.items() if isinstance(kind, ClassLabel)}


def _read(examples: Iterable[Any], source: str) -> Iterator[Any]:
    try:
        yield from examples
    except Exception as error:  # as in _open
        raise UserError(f"--source {source} cannot be read further: {_first_line(error)}") from error


def _image(value: Any, folder: Path) -> Path | bytes | None:
    """The encoded file of what `datasets` gives for an image: its bytes, its place, or both in a dict.

    Raises:
        OSError, ValueError: it lies elsewhere and cannot be fetched from there.
    """
    if isinstance(value, dict):
        if value.get("bytes") is None and "://" in str(value.get("path")):  # within an archive, or on the hub
            with fsspec.open(value["path"]) as file:
                return file.read()
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, str):
        if "://" in value:
            raise ValueError(f"{value} is an address, not a file; download it first")
        return folder / value if value else None
    return value if isinstance(value, bytes) else None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
