"""Tables of a user's own: a CSV file or any source of the library `datasets`, whose fields become a task's columns."""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data.cells import SEPARATOR, parse_answers
from data.datasets_source import first_line, local_reader, stored_image
from data.layout import Layout, join_cell, layout_of
from data.prepare.answers import answers_cell, normalise_answer, normalise_cell, write_answers_of
from data.prepare.records import Conversion, LeftOut, Record, Sample, require_file
from data.source import Row, RowError
from ofa.config import did_you_mean
from ofa.errors import UserError
from ofa.images import Box

_CORNERS = ("x0", "y0", "x1", "y1")
BOX_FORMATS = ("xyxy", "xywh")


def add_field_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that `FieldMap.of` reads."""
    parser.add_argument("--task", required=True, metavar="NAME", help="whose columns are written, such as refcoco")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="your own configs, with task/NAME.yaml")
    parser.add_argument(
        "--map",
        nargs="+",
        default=[],
        metavar="COLUMN=FIELD",
        help="which field of the source becomes a column, such as text=caption; by default the field of the same name",
    )
    parser.add_argument("--box-format", choices=BOX_FORMATS, default="xyxy", help="of boxes, default %(default)s")
    parser.add_argument(
        "--normalise-answers",
        action="store_true",
        help="write answers as VQA does: lower case, no articles or punctuation, numbers as digits",
    )


@dataclass(frozen=True)
class FieldMap:
    """The field of a source for each column."""

    layout: Layout
    fields: Mapping[str, str]  # of each column that has one; for a box in four fields, of x0, y0, x1 and y1
    box_format: str  # one of BOX_FORMATS
    normalise: bool  # answers, as VQA does

    @classmethod
    def of(cls, arguments: argparse.Namespace, names: Sequence[str], source: object) -> FieldMap:
        """The map of the command line; UserError if a column or field is unknown or a needed column has no field."""
        layout = layout_of(arguments.task, arguments.config_dir)
        has_box = "box" in layout.columns
        columns = (*layout.columns, *(_CORNERS if has_box else ()))
        fields = {column: column for column in columns if column in names}
        for entry in arguments.map:
            column, mark, field = entry.partition("=")
            if not mark or column not in columns:
                hint = did_you_mean(column, columns)
                raise UserError(f"--map {entry} does not begin with a column of {arguments.task} and = {hint}".rstrip())
            if field not in names:
                hint = did_you_mean(field, names)
                raise UserError(f"--map {entry}: {source} has no field {field!r}, only {', '.join(names)}{hint}")
            fields[column] = field
        if has_box and all(corner in fields for corner in _CORNERS):
            fields.setdefault("box", "")
        for column in ("image", *layout.needed):
            if column not in fields:
                corners = " (or x0=FIELD y0=FIELD x1=FIELD y1=FIELD)" if column == "box" else ""
                raise UserError(
                    f"{source} has no field {column!r}, which {arguments.task} needs, only {', '.join(names)}; "
                    f"give --map {column}=FIELD{corners}"
                )
        return cls(layout, fields, arguments.box_format, arguments.normalise_answers)

    def sample(
        self, number: int, place: str, row: Mapping[str, Any], image: Path | bytes | None, image_id: str
    ) -> Sample:
        """The record of a row of texts, lists of texts and numbers; `number` and `image_id` replace missing ids."""
        if image is None:
            return LeftOut(place, f"the field {self.fields['image']!r} holds no image")
        values = {"uniq_id": str(number), "image_id": image_id}
        for column, field in self.fields.items():
            if column in ("image", "box", *_CORNERS):
                continue
            text = _text(row[field])
            if text.strip() or column not in values:
                values[column] = text
        if "answers" in self.fields:
            try:
                values["answers"] = self._answers(row[self.fields["answers"]])
            except RowError as error:
                return LeftOut(place, error.message)
        try:
            box = self._box(row) if "box" in self.fields else None
        except (TypeError, ValueError) as error:
            return LeftOut(place, f"its box is not four numbers ({error})")
        return Record(place, values, image, box)

    def _answers(self, value: Any) -> str:
        """The cell of answers with confidences or of people's answers: joined, in a list, or in VQA's dicts."""
        if isinstance(value, str) and "|!+" in value:
            # Not a line yet; of an error only the message is used.
            return normalise_cell(parse_answers(Row({"answers": value}, "", 0))) if self.normalise else value
        several = value if isinstance(value, list | tuple) else _text(value).split(SEPARATOR)
        given = [entry["answer"] if isinstance(entry, dict) and "answer" in entry else entry for entry in several]
        texts = [str(text).strip() for text in given if text is not None]
        return answers_cell([normalise_answer(text) for text in texts] if self.normalise else texts)

    def _box(self, row: Mapping[str, Any]) -> Box:
        if self.fields["box"]:
            value = row[self.fields["box"]]
            numbers = value.strip(" []()").split(",") if isinstance(value, str) else value
        else:
            numbers = [row[self.fields[corner]] for corner in _CORNERS]
        x0, y0, x1, y1 = map(float, numbers)
        return (x0, y0, x0 + x1, y0 + y1) if self.box_format == "xywh" else (x0, y0, x1, y1)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return join_cell(map(str, value)) if isinstance(value, list | tuple) else str(value)


class CSVTable:
    """One row per line; the first line names the fields."""

    help = "a CSV of image paths, texts and boxes, for a folder of photos"
    makes = "FILE"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("csv", type=Path, help="with a header; image paths are relative to its folder")
        add_field_arguments(parser)

    def conversions(self, arguments: argparse.Namespace) -> Iterator[Conversion]:
        path = require_file(arguments.csv, "a CSV file with a header")
        names = next(_read_csv(path), (0, []))[1]
        if not names:
            raise UserError(f"{path} is empty; its first line should name the fields, such as image,text,x0,y0,x1,y1")
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"{path} has two fields {name!r} in its header; rename one")
        fields = FieldMap.of(arguments, names, path)
        yield from _with_answers(Conversion(arguments.out, fields.layout, (path,), partial(_csv_samples, path, fields)))


def _with_answers(conversion: Conversion) -> Iterator[Conversion]:
    yield conversion
    if conversion.layout.truth == "answers":
        write_answers_of(conversion.file)


def _read_csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not empty, each with its number."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:  # spreadsheets write a byte order mark
            reader = csv.reader(lines, strict=True)
            for cells in reader:
                if any(cells):
                    yield reader.line_num, [cell.strip() for cell in cells]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason}); save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise UserError(f"line {reader.line_num} of {path} is not CSV ({error})") from error


def _csv_samples(path: Path, fields: FieldMap) -> Iterator[Sample]:
    lines = _read_csv(path)
    _, names = next(lines)
    for number, (line, cells) in enumerate(lines, start=1):
        place = f"line {line} of {path.name}"
        if len(cells) != len(names):
            yield LeftOut(place, f"it has {len(cells)} fields, the header has {len(names)}")
            continue
        row = dict(zip(names, cells, strict=True))
        image = row[fields.fields["image"]]
        yield fields.sample(number, place, row, path.parent / image if image else None, image)


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
        sources, folder = ((path,), path.parent) if path.is_file() else ((), path)
        samples = partial(_samples, examples, fields, arguments.source, folder)
        yield from _with_answers(Conversion(arguments.out, fields.layout, sources, samples))


def _open(source: str, config: str | None, split: str) -> Any:
    """The examples of a split as a stream."""
    from datasets import load_dataset  # takes seconds

    named = local_reader(source, "--source ") or {"path": source, "name": config}
    try:
        examples = load_dataset(**named, split=split, streaming=True)
    except Exception as error:  # of the hub, of the file system, of each format's reader
        raise UserError(f"--source {source} --split {split} cannot be read: {first_line(error)}") from error
    # Encoded images instead of decoded ones, also in columns that are not read, which would be fetched otherwise.
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
