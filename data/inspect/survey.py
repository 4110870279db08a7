"""Every row read as training reads it, counted and measured: `survey`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import ExifTags, Image

from data.answers import parse_answers
from data.boxes import clip_box, parse_box
from data.images import decode_image
from data.prepare.columns import JOINT, LAYOUTS, Layout, check_columns
from data.tsv import Row, RowError, TSVFile
from ofa.boxes import Box
from ofa.errors import UserError

TEXTS = ("text", "caption", "hypothesis", "question")
UNSCORED = ": training refuses such a row, evaluation answers and does not score it"
GUESSED = 20  # rows that tell the task
TURNED = "picture to be shown turned (EXIF), which training does not do: boxes count in pixels as stored"


@dataclass(frozen=True)
class Example:
    """A row whose image and columns are as they should be."""

    row: Row
    image: Image.Image
    box: Box | None


@dataclass
class Survey:
    """What was found in the rows that were read.

    Attributes:
        task: whose columns they are.
        rows: of the file.
        read: how many of them were looked at.
        measures: numbers by what they measure, such as "image width, px"; one for each row that has them.
        counts: how often each value occurs, by what it is, such as "label".
        notes: how often something is as training can take it, but not quite as meant.
        problems: the rows that training would refuse.
    """

    task: str
    rows: int
    read: int = 0
    measures: dict[str, list[float]] = field(default_factory=dict)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    problems: list[RowError] = field(default_factory=list)

    def measure(self, name: str, value: float) -> None:
        """A number that a row has."""
        self.measures.setdefault(name, []).append(value)

    def count(self, name: str, value: str) -> None:
        """A value that a row has."""
        self.counts.setdefault(name, Counter())[value] += 1


def open_file(path: Path, task: str) -> TSVFile:
    """The rows of a file in the columns of a task."""
    columns = LAYOUTS[task].columns
    return TSVFile(path, {name: number for number, name in enumerate(columns)}, len(columns))


def guess_task(path: Path) -> str:
    """The task whose columns most of the first rows seem to have, broken ones among them.

    Raises:
        UserError: no row has those of any.
    """
    fitting = {task: _count_fitting(open_file(path, task)) for task in LAYOUTS}
    task = max(fitting, key=fitting.__getitem__)
    if not fitting[task]:
        raise UserError(
            f"none of the first {GUESSED} rows of {path} is one of {', '.join(LAYOUTS)}; "
            "--task says what they should be"
        )
    return task


def _count_fitting(rows: TSVFile) -> int:
    return sum(_fits(rows, index) for index in range(min(GUESSED, len(rows))))


def _fits(rows: TSVFile, index: int) -> bool:
    """Whether the row has the columns that these rows are read in: a picture, and numbers for a box and no objects."""
    try:
        row = rows[index]
        decode_image(row.values["image"], row)
    except RowError:
        return False
    return all(_says_numbers(row.values[name]) == (name == "box") for name in ("box", "objects") if name in row.values)


def _says_numbers(cell: str) -> bool:
    return sum(map(str.isdigit, cell)) > sum(map(str.isalpha, cell))


def survey(
    path: Path, task: str, indices: Iterable[int], show: Callable[[Example], None] = lambda example: None
) -> Survey:
    """The rows of these indices, counted and measured.

    Args:
        show: is given each row that can be used.
    """
    rows, layout = open_file(path, task), LAYOUTS[task]
    found = Survey(task, len(rows))
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
            found.notes["uniq_id that another row has, too"] += 1
        ids.add(row.values["uniq_id"])
        _measure(example, found)
        show(example)
    return found


def read_example(row: Row, layout: Layout) -> Example:
    """The row's picture and box, everything in it checked; columns that may be empty are not where they are.

    Raises:
        RowError: training would refuse it.
    """
    image = decode_image(row.values["image"], row)
    given = {name: text for name, text in row.values.items() if text.strip() or name in ("uniq_id", *layout.needed)}
    check_columns(replace(row, values=given), *image.size)
    return Example(row, image, parse_box(row.values["box"], row) if "box" in row.values else None)


def _measure(example: Example, found: Survey) -> None:
    row, image = example.row, example.image
    for name, text in row.values.items():
        if not text.strip():
            found.notes[f"{name} empty" + (UNSCORED if name == LAYOUTS[found.task].truth else "")] += 1
        elif name in TEXTS:
            for part in text.split(JOINT):
                found.measure(f"{name}, words", len(part.split()))
    found.measure("image width, px", image.width)
    found.measure("image height, px", image.height)
    found.measure("image file, KB", len(row.values["image"]) * 3 / 4 / 1000)
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        found.notes[TURNED] += 1
    if example.box is not None:
        (x0, y0, x1, y1), clipped = clip_box(example.box, *image.size, row)
        found.measure("box width, px", x1 - x0)
        found.measure("box height, px", y1 - y0)
        found.measure("box, % of the image", 100 * (x1 - x0) * (y1 - y0) / (image.width * image.height))
        if clipped:
            found.notes[clipped] += 1
    if row.values.get("label"):
        found.count("label", row.values["label"].strip())
    if "answers" in row.values and (confidences := parse_answers(row)):
        found.count("most confident answer", max(confidences, key=confidences.__getitem__))
