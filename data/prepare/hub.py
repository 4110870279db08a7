"""Any source of the library `datasets`: a Hugging Face hub id, Parquet, JSON, CSV, a folder of images or Parquet."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import PIL.Image

from data.prepare.answers import write_answers_of
from data.prepare.fields import FieldMap, add_field_arguments
from data.prepare.records import Conversion, LeftOut, Sample
from ofa.errors import UserError
from ofa.inputs import MAX_DOWNLOAD

_READERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}
_ARCHIVES = {".zip", ".tar", ".gz", ".tgz"}  # that may contain images


class HuggingFace:
    """One row per example, streamed, so that at most one shard is in memory."""

    help = "any source of the library datasets: hub id, Parquet, JSON, CSV, folder of images or Parquet"
    makes = "FILE"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--source", required=True, help="hub id, file or folder")
        parser.add_argument("--config", help="of a hub id with several")
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
        yield Conversion(arguments.out, fields.layout, sources, samples)
        if fields.layout.truth == "answers":
            write_answers_of(arguments.out)


def _open(source: str, config: str | None, split: str) -> Any:
    """The examples of a split as a stream.

    Raises:
        UserError: there is none.
    """
    from datasets import load_dataset  # takes seconds

    path = Path(source)
    if path.is_file():
        if path.suffix not in _READERS:
            raise UserError(f"--source {source} is not one of the files that are read: {', '.join(_READERS)}")
        named = {"path": _READERS[path.suffix], "data_files": str(path)}
    elif path.is_dir():
        named = {"path": _reader_of(path), "data_dir": str(path)}
    else:
        named = {"path": source, "name": config}
    try:
        examples = load_dataset(**named, split=split, streaming=True)
    except Exception as error:  # of the hub, of the file system, of each format's reader
        raise UserError(f"--source {source} --split {split} cannot be read: {_first_line(error)}") from error
    # Encoded images instead of decoded ones, also in columns that are not read, which would be fetched otherwise.
    return examples.decode(False) if examples.features else examples


def _reader_of(folder: Path) -> str:
    """The reader of `datasets` for a folder.

    Raises:
        UserError: there is none.
    """
    suffixes = {path.suffix.lower() for path in folder.rglob("*")}
    if ".parquet" in suffixes:
        return "parquet"
    if not suffixes & {*PIL.Image.registered_extensions(), *_ARCHIVES}:
        raise UserError(f"--source {folder} has neither Parquet files nor images; name one of its files instead")
    return "imagefolder"


def _samples(examples: Any, fields: FieldMap, source: str, folder: Path) -> Iterator[Sample]:
    from datasets import ClassLabel, Image

    field, features = fields.fields["image"], examples.features or {}
    is_image = isinstance(features.get(field), Image)
    labels = {name: feature.names for name, feature in features.items() if isinstance(feature, ClassLabel)}
    for number, example in enumerate(_read(examples, source), start=1):
        place = f"example {number} of {source}"
        for name, names in labels.items():
            value = example[name]
            example[name] = names[value] if isinstance(value, int) and 0 <= value < len(names) else None
        try:
            image = _image(_fetch(example[field], place) if is_image else example[field], folder)
        except (FileNotFoundError, ValueError) as error:
            yield LeftOut(place, f"its image cannot be read ({error})")
            continue
        image_id = os.path.relpath(image, folder) if isinstance(image, Path) else str(number)
        yield fields.sample(number, place, example, image, image_id)


def _read(examples: Iterable[Any], source: str) -> Iterator[Any]:
    try:
        yield from examples
    except Exception as error:  # as in _open
        raise UserError(f"--source {source} cannot be read further: {_first_line(error)}") from error


def _fetch(value: Any, place: str) -> Any:
    """The bytes of an image in an archive or on the hub; any other value unchanged.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is too large.
        UserError: the file system fails.
    """
    if not isinstance(value, dict) or value["bytes"] is not None or not _is_fetched(str(value["path"])):
        return value
    try:
        with fsspec.open(value["path"]) as file:
            encoded = file.read(MAX_DOWNLOAD + 1)
    except FileNotFoundError:
        raise
    except Exception as error:  # each file system has its own
        raise UserError(
            f"the image of {place} cannot be fetched: {_first_line(error)}; the same command resumes"
        ) from error
    if len(encoded) > MAX_DOWNLOAD:
        raise ValueError(f"{value['path']} has more than the {MAX_DOWNLOAD} bytes allowed")
    return encoded


def _is_fetched(address: str) -> bool:
    """Whether it is on the hub or in an archive, there or here: a file's content opens no other network address.

    Archives come first, as in `zip://a.jpg::hf://datasets/ORG/NAME/photos.zip`.
    """
    *archives, place = address.split("::")
    return all(archive.startswith(("zip://", "tar://")) for archive in archives) and (
        place.startswith("hf://") or (bool(archives) and "://" not in place)
    )


def _image(value: Any, folder: Path) -> Path | bytes | None:
    """An encoded image or its path, out of bytes, a path, or a dict of both.

    Raises:
        ValueError: it is an address; fields are not looked up in the network.
    """
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, str):
        if "://" in value:
            raise ValueError(f"{value} is an address, not a file; download it first")
        return folder / value if value else None
    return value if isinstance(value, bytes) else None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
