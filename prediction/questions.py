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
    texts: dict[str, str]


def read_questions(
    source: Path, pipeline: str, text: str | None, caption: str | None, leave_out: Path
) -> list[PictureQuestion]:
    """The questions of a picture, a folder of pictures (with those in its folders), or a CSV.

    Args:
        source: the CSV has a header: the column image holds paths, which may be relative to the CSV; the texts of the
            question have a column of their name each, which `text` and `caption` stand in for where it is missing.
        pipeline: says what texts there are.
        text, caption: of every picture that comes without.
        leave_out: a folder whose pictures are no questions, even where it lies inside the source.

    Raises:
        UserError: the source is missing, unreadable or holds no picture, or texts are missing or of no use.
    """
    given = {name: value for name, value in (("text", text), ("caption", caption)) if value is not None}
    wanted = PROCESSORS[pipeline].texts
    for name in given:
        if name not in wanted:
            raise UserError(f"{name}={given[name]}: {pipeline} asks about the picture alone; leave {name} out")
    if source.suffix.lower() == ".csv":
        questions = list(_of_table(source, wanted, given))
    else:
        questions = [PictureQuestion(path, given) for path in _pictures(source, leave_out)]
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
    found = (path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if leave_out.resolve() not in path.resolve().parents)


def _of_table(source: Path, wanted: Mapping[str, bool], given: dict[str, str]) -> Iterator[PictureQuestion]:
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, strict=True)
            columns = table.fieldnames or []
            for name in ("image", *(name for name, needed in wanted.items() if needed and name not in given)):
                if name not in columns:
                    raise UserError(
                        f"{source} has no column {name}; its first line names {', '.join(columns) or 'none'}"
                    )
            for row in table:
                texts = {name: row[name] if name in columns else given.get(name) for name in wanted}
                if not row["image"] or None in (row[name] for name in columns):
                    raise UserError(
                        f"line {table.line_num} of {source} has no image, or fewer cells than the first line"
                    )
                yield PictureQuestion(source.parent / row["image"], {k: v for k, v in texts.items() if v is not None})
    except OSError as error:
        raise UserError(f"input={source} cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"input={source} is not a CSV in UTF-8 ({error})") from error
