"""Inputs of batch prediction: images with their texts."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ofa.errors import UserError
from ofa.processors import PROCESSORS

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class PredictionInput:
    """An image, and the texts of its prompt by name."""

    path: Path
    texts: Mapping[str, str]


def read_inputs(source: Path, pipeline: str, texts: Mapping[str, str], leave_out: Path) -> list[PredictionInput]:
    """The inputs of an image, a folder of images (searched recursively), or a CSV file.

    Args:
        source: a CSV file has a header: column image with paths, relative to the CSV file or absolute, and one column
            for each text, under the name of the pipeline's argument.
        leave_out: a folder whose images are no inputs, even inside the source.

    Raises:
        UserError: the source is missing, unreadable or holds no image; texts are missing, given twice or unused.
    """
    wanted = PROCESSORS[pipeline].text_inputs
    for name in (name for name in texts if name not in wanted):
        read = " and ".join(["the image", *wanted])
        raise UserError(f"{name}={texts[name]}: {pipeline} reads only {read}; leave {name} out")
    if source.suffix.lower() == ".csv":
        inputs = list(_read_csv(source, wanted, texts))
    else:
        inputs = [PredictionInput(path, dict(texts)) for path in _find_images(source, leave_out)]
        for name, required in wanted.items():
            if required and name not in texts:
                raise UserError(f"{pipeline} needs a text for each image: set {name}, or give a CSV file as input")
    if not inputs:
        raise UserError(f"input {source} contains no image ({', '.join(SUFFIXES)})")
    return inputs


def _find_images(source: Path, leave_out: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"input {source} does not exist: give an image, a folder of images, or a CSV file")
    if source.resolve() == leave_out.resolve():
        raise UserError(f"output {leave_out} is the input folder; set output to another")
    found = (path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if leave_out.resolve() not in path.resolve().parents)


def _read_csv(source: Path, wanted: Mapping[str, bool], texts: Mapping[str, str]) -> Iterator[PredictionInput]:
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, strict=True)
            columns = table.fieldnames or []
            _check_columns(source, columns, wanted, texts)
            for row in table:
                if None in row or None in row.values():
                    raise UserError(
                        f"line {table.line_num} of {source} has more or fewer cells than line 1; put texts with commas "
                        "into quotation marks"
                    )
                if not row["image"]:
                    raise UserError(f"line {table.line_num} of {source} has no image")
                own = {name: row[name] for name in wanted if name in columns}
                yield PredictionInput(source.parent / row["image"], {**texts, **own})
    except OSError as error:
        raise UserError(f"input {source} cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"input {source} is not a CSV file in UTF-8 ({error})") from error


def _check_columns(source: Path, columns: list[str], wanted: Mapping[str, bool], texts: Mapping[str, str]) -> None:
    for name in ("image", *(name for name, required in wanted.items() if required and name not in texts)):
        if name not in columns:
            raise UserError(f"{source} has no column {name}; its columns are {', '.join(columns) or 'none'}")
    for name in columns:
        if columns.count(name) > 1:
            raise UserError(f"{source} has two columns {name}; rename or remove one")
        if name in texts:
            raise UserError(f"{name}={texts[name]} is set, and {source} has a column {name}; leave one of them out")
