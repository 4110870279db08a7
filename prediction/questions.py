"""What predict.py is to answer: pictures, with the texts that are asked about them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ofa.errors import UserError
from ofa.processors import PROCESSORS

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class PictureQuestion:
    """A picture, and the texts of the question by their names."""

    path: Path
    texts: Mapping[str, str]

    def __hash__(self) -> int:
        return hash((self.path, *sorted(self.texts.items())))


def read_questions(source: Path, pipeline: str, given: Mapping[str, str], leave_out: Path) -> list[PictureQuestion]:
    """The questions of a picture, a folder of pictures (with those in its folders), or a CSV.

    Args:
        source: the CSV has a header: the column image holds paths, which may be relative to the CSV; the texts of the
            question have a column of their name each.
        pipeline: says what texts there are.
        given: texts that are asked about every picture, by their names.
        leave_out: a folder whose pictures are no questions, even where it lies inside the source.

    Raises:
        UserError: the source is missing, unreadable or holds no picture; texts are missing, given twice or of no use.
    """
    wanted = PROCESSORS[pipeline].text_inputs
    for name in given:
        if name not in wanted:
            texts = " and ".join(["the picture", *wanted])
            raise UserError(f"{name}={given[name]}: {pipeline} reads {texts} alone; leave {name} out")
    if source.suffix.lower() == ".csv":
        questions = list(_of_table(source, wanted, given))
    else:
        questions = [PictureQuestion(path, dict(given)) for path in _pictures(source, leave_out)]
        for name, needed in wanted.items():
            if needed and name not in given:
                raise UserError(f"{pipeline} asks a text about each picture: set {name}=..., or give a CSV as input")
    if not questions:
        raise UserError(f"input={source} holds no picture ({', '.join(SUFFIXES)})")
    return questions


def _pictures(source: Path, leave_out: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"input={source} does not exist: give a picture, a folder of pictures, or a CSV")
    if source.resolve() == leave_out.resolve():
        raise UserError(f"output={leave_out} is the folder of input=; set output= to another")
    found = (path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if leave_out.resolve() not in path.resolve().parents)


def _of_table(source: Path, wanted: Mapping[str, bool], given: Mapping[str, str]) -> Iterator[PictureQuestion]:
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, strict=True)
            columns = table.fieldnames or []
            _check_columns(source, columns, wanted, given)
            for row in table:
                if None in row or None in row.values():
                    raise UserError(
                        f"line {table.line_num} of {source} has more or fewer cells than line 1; put texts with commas "
                        "into quotation marks"
                    )
                if not row["image"]:
                    raise UserError(f"line {table.line_num} of {source} names no image")
                own = {name: row[name] for name in wanted if name in columns}
                yield PictureQuestion(source.parent / row["image"], {**given, **own})
    except OSError as error:
        raise UserError(f"input={source} cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"input={source} is not a CSV in UTF-8 ({error})") from error


def _check_columns(source: Path, columns: list[str], wanted: Mapping[str, bool], given: Mapping[str, str]) -> None:
    for name in ("image", *(name for name, needed in wanted.items() if needed and name not in given)):
        if name not in columns:
            raise UserError(f"{source} has no column {name}; its first line names {', '.join(columns) or 'none'}")
    for name in columns:
        if columns.count(name) > 1:
            raise UserError(f"{source} has two columns {name}; rename or remove one")
        if name in given:
            raise UserError(f"{name}={given[name]} is given, and {source} has a column {name}; leave one of them out")
