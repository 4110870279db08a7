"""A CSV file of image paths and texts, for a folder of your own photos."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data.prepare.answers import write_answers_of
from data.prepare.fields import FieldMap, add_field_arguments
from data.prepare.records import Conversion, LeftOut, Sample, require_file
from ofa.errors import UserError


class CSVTable:
    """One row per line; the first line names the fields."""

    help = "a CSV of image paths, texts and boxes, for a folder of photos"
    makes = "FILE"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("csv", type=Path, help="with a header; image paths are relative to its folder")
        add_field_arguments(parser)

    def conversions(self, arguments: argparse.Namespace) -> Iterator[Conversion]:
        path = require_file(arguments.csv, "a CSV file with a header")
        names = next(_read(path), (0, []))[1]
        if not names:
            raise UserError(f"{path} is empty; its first line should name the fields, such as image,text,x0,y0,x1,y1")
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"{path} has two fields {name!r} in its header; rename one")
        fields = FieldMap.of(arguments, names, path)
        yield Conversion(arguments.out, fields.layout, (path,), partial(_samples, path, fields))
        if fields.layout.truth == "answers":
            write_answers_of(arguments.out)


def _read(path: Path) -> Iterator[tuple[int, list[str]]]:
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


def _samples(path: Path, fields: FieldMap) -> Iterator[Sample]:
    lines = _read(path)
    _, names = next(lines)
    for number, (line, cells) in enumerate(lines, start=1):
        place = f"line {line} of {path.name}"
        if len(cells) != len(names):
            yield LeftOut(place, f"it has {len(cells)} fields, the header has {len(names)}")
            continue
        row = dict(zip(names, cells, strict=True))
        image = row[fields.fields["image"]]
        yield fields.sample(number, place, row, path.parent / image if image else None, image)
