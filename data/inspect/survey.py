"""Rows read as training reads them, counted and measured: `survey`, `guess_task`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from data.cells import SEPARATOR, clip_box, decode_image, parse_answers, parse_box
from data.layout import Layout, find_task, task_names
from data.source import Row, RowError
from data.tsv import TSVFile
from ofa.errors import UserError
from ofa.images import Box

TEXTS = ("text", "caption", "hypothesis", "question")
UNSCORED = ": training refuses such a row, evaluation predicts and does not score it"
GUESSED = 20  # rows that the task is guessed from
ROTATED = "image with an EXIF rotation, which training does not apply: boxes are in pixels as stored"


@dataclass(frozen=True)
class Example:
    """A row with a valid image and valid columns."""

    row: Row
    image: Image.Image
    box: Box | None


@dataclass
class Survey:
    """Statistics of the rows that were read.

    Attributes:
        rows: of the file.
        read: how many of them were read.
        measures: numbers by name, such as "image width, px"; one for each row that has them.
        counts: how often each value occurs, by name, such as "label".
        notes: how often training has to repair something, or cannot score it.
        problems: the rows that training would refuse.
    """

    task: str
    layout: Layout
    rows: int
    read: int = 0
    measures: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    notes: Counter[str] = field(default_factory=Counter)
    problems: list[RowError] = field(default_factory=list)


def open_file(path: Path, layout: Layout) -> TSVFile:
    """The rows of a file, all columns of its layout."""
    return TSVFile(path, {name: number for number, name in enumerate(layout.columns)}, len(layout.columns))


def guess_task(path: Path, config_dir: Path | None = None) -> str:
    """The task whose columns most of the first rows seem to have, even broken ones; UserError if no row fits any."""
    layouts: dict[str, Layout] = {}  # without the repeated ones
    for name in task_names(config_dir):
        layout = find_task(name, config_dir).layout
        if layout is not None and layout not in layouts.values():
            layouts[name] = layout
    fitting = {}
    for name, layout in layouts.items():
        rows = open_file(path, layout)
        fitting[name] = sum(_fits(rows, index) for index in range(min(GUESSED, len(rows))))
    task = max(fitting, key=fitting.__getitem__)
    if not fitting[task]:
        raise UserError(
            f"none of the first {GUESSED} rows of {path} fits one of {', '.join(fitting)}; give --task, the right one"
        )
    return task


def _fits(rows: TSVFile, index: int) -> bool:
    """Whether a row fits these columns: an image, and numbers in a box but not in objects."""
    try:
        row = rows[index]
        decode_image(row.values["image"], row)
    except RowError:
        return False
    return all(_is_numeric(row.values[name]) == (name == "box") for name in ("box", "objects") if name in row.values)


def _is_numeric(cell: str) -> bool:
    return sum(map(str.isdigit, cell)) > sum(map(str.isalpha, cell))


def survey(
    path: Path, task: str, layout: Layout, indices: Iterable[int], show: Callable[[Example], Any] = lambda example: None
) -> Survey:
    """Statistics of the rows of these indices; calls `show` with each usable row."""
    rows = open_file(path, layout)
    found = Survey(task, layout, len(rows))
    ids: set[str] = set()
    for index in indices:
        found.read += 1
        try:
            row = rows[index]
            example = read_example(row, layout)
        except RowError as error:
            found.problems.append(error)
            continue
        if row.values["uniq_id"] in ids:
            found.notes["uniq_id that occurs twice"] += 1
        ids.add(row.values["uniq_id"])
        _measure(example, found)
        show(example)
    return found


def read_example(row: Row, layout: Layout) -> Example:
    """The row's image and box; RowError if training would refuse a column. Empty ones that may be empty are fine."""
    image = decode_image(row.values["image"], row)
    given = {name: text for name, text in row.values.items() if text.strip() or name in ("uniq_id", *layout.needed)}
    layout.check(replace(row, values=given), *image.size)
    return Example(row, image, parse_box(row.values["box"], row) if "box" in row.values else None)


def _measure(example: Example, found: Survey) -> None:
    row, image = example.row, example.image
    for name, text in row.values.items():
        if not text.strip():
            found.notes[f"{name} empty" + (UNSCORED if name == found.layout.truth else "")] += 1
        elif name in TEXTS:
            for part in text.split(SEPARATOR):
                found.measures[f"{name}, words"].append(len(part.split()))
    found.measures["image width, px"].append(image.width)
    found.measures["image height, px"].append(image.height)
    found.measures["image file, KB"].append(len(row.values["image"]) * 3 / 4 / 1000)
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        found.notes[ROTATED] += 1
    if example.box is not None:
        (x0, y0, x1, y1), clipped = clip_box(example.box, *image.size, row)
        found.measures["box width, px"].append(x1 - x0)
        found.measures["box height, px"].append(y1 - y0)
        found.measures["box, % of the image"].append(100 * (x1 - x0) * (y1 - y0) / (image.width * image.height))
        if clipped:
            found.notes[clipped] += 1
    if row.values.get("label"):
        found.counts["label"][row.values["label"].strip()] += 1
    if "answers" in row.values and (confidences := parse_answers(row)):
        found.counts["most confident answer"][max(confidences, key=confidences.__getitem__)] += 1
