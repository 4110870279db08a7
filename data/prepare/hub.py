"""Any source of the library `datasets`: a Hugging Face hub id, Parquet, JSON, CSV, a folder of images or Parquet."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from data.datasets_source import first_line, local_reader, stored_image
from data.prepare.answers import write_answers_of
from data.prepare.fields import FieldMap, add_field_arguments
from data.prepare.records import Conversion, LeftOut, Sample
from ofa.errors import UserError


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

    named = local_reader(source, "--source ") or {"path": source, "name": config}
    try:
        examples = load_dataset(**named, split=split, streaming=True)
    except Exception as error:  # of the hub, of the file system, of each format's reader
        raise UserError(f"--source {source} --split {split} cannot be read: {first_line(error)}") from error
    # Encoded images instead of decoded ones; also in columns that are not read, which would be fetched otherwise.
    return examples.decode(False) if examples.features else examples


def _samples(examples: Any, fields: FieldMap, source: str, folder: Path) -> Iterator[Sample]:
    from datasets import ClassLabel

    field, features = fields.fields["image"], examples.features or {}
    labels = {name: feature.names for name, feature in features.items() if isinstance(feature, ClassLabel)}
    for number, example in enumerate(_read(examples, source), start=1):
        place = f"example {number} of {source}"
        for name, names in labels.items():
            value = example[name]
            example[name] = names[value] if isinstance(value, int) and 0 <= value < len(names) else None
        try:
            image = stored_image(example[field], folder)
        except (FileNotFoundError, ValueError) as error:
            yield LeftOut(place, f"its image cannot be read ({error})")
            continue
        image_id = os.path.relpath(image, folder) if isinstance(image, Path) else str(number)
        yield fields.sample(number, place, example, image, image_id)


def _read(examples: Iterable[Any], source: str) -> Iterator[Any]:
    try:
        yield from examples
    except Exception as error:  # as in _open
        raise UserError(f"--source {source} cannot be read further: {first_line(error)}") from error
